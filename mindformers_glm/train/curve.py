"""The loss curve as a picture. Needs matplotlib: `pip install mindformers_glm[plot]`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.files import atomic_write
from mindformers_glm.log import log_once

_SMOOTHING = 0.9  # weight of the past in the smoothed line


def draw_curve(
    records: Sequence[dict[str, Any]], path: Path, evaluations: Sequence[tuple[int, dict[str, Any]]] = ()
) -> Path | None:
    """Draws loss, learning rate and gradient norm over steps; returns the picture's path, None without matplotlib.

    `records` have `step`, `loss`, `learning_rate`, and `grad_norm` (None where the gradients overflowed); losses among
    `evaluations` (step, result) become points.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        log_once("No loss curve is drawn: install matplotlib (pip install 'mindformers_glm[plot]').")
        return None
    steps = [record["step"] for record in records]
    losses = np.array([record["loss"] for record in records], float)
    norms = np.array([record.get("grad_norm") for record in records], float)  # None becomes nan
    figure = Figure(figsize=(8, 6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    axes.plot(steps, losses, color="tab:blue", alpha=0.35, linewidth=1, label="loss")
    axes.plot(steps, smooth(losses), color="tab:blue", linewidth=1.8, label="smoothed")
    points = [(step, result["loss"]) for step, result in evaluations if "loss" in result]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color="tab:red", linewidth=1, label="evaluation")
    axes.set_ylabel("loss")
    axes.legend(loc="upper right")
    below.plot(steps, norms, color="tab:green", linewidth=1)
    below.set_xlabel("step")
    below.set_ylabel("gradient norm", color="tab:green")
    for one in (axes, below):
        one.grid(alpha=0.3)
    rates = below.twinx()
    rates.plot(steps, [record["learning_rate"] for record in records], color="tab:orange", linewidth=1)
    rates.set_ylabel("learning rate", color="tab:orange")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    with atomic_write(path) as file:
        canvas.print_png(file)
    return path


def smooth(values: np.ndarray) -> np.ndarray:
    """Exponential mean of the past, without the bias of its start; values that are not finite are skipped."""
    out, mean, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
            weight = _SMOOTHING * weight + 1 - _SMOOTHING
        out[i] = mean / weight if weight else np.nan
    return out
