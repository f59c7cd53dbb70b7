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


def draw_curve(records: Sequence[dict[str, Any]], path: Path) -> Path | None:
    """Draws loss and learning rate over steps and returns the picture's path; None without matplotlib, said once.

    `records` have `step`, `loss`, `learning_rate`.
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
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.plot(steps, losses, color="tab:blue", alpha=0.35, linewidth=1, label="loss")
    axes.plot(steps, smooth(losses), color="tab:blue", linewidth=1.8, label="smoothed")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    rates = axes.twinx()
    rates.plot(steps, [record["learning_rate"] for record in records], color="tab:orange", linewidth=1)
    rates.set_ylabel("learning rate", color="tab:orange")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    with atomic_write(path) as file:
        canvas.print_png(file)
    return path


def smooth(values: np.ndarray) -> np.ndarray:
    """Exponential mean of the past, without the bias of its start; values that are not finite are passed over."""
    out, mean, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
            weight = _SMOOTHING * weight + 1 - _SMOOTHING
        out[i] = mean / weight if weight else np.nan
    return out
