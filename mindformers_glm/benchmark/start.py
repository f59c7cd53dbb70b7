"""From the start of a process to its first token: `glm2_tiny`, or any model that chat knows, loaded as there."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from mindformers_glm.benchmark.processes import run_program
from mindformers_glm.benchmark.report import disturbance
from mindformers_glm.benchmark.settings import Settings

_FIRST_TOKEN = "mindformers_glm.benchmark.first_token"
_PARTS = ("import_s", "load_s", "token_s")


def measure_start(settings: Settings) -> dict[str, Any]:
    """Seconds to the first token: of a start with no bytecode of Python at hand, and the median of those after it.

    Raises:
        UserError: the model is not there.
    """
    with tempfile.TemporaryDirectory() as kept:  # empty at first; then it has the bytecode of everything
        bytecode = {"PYTHONPYCACHEPREFIX": kept, "PYTHONDONTWRITEBYTECODE": ""}
        cold = _start(settings, bytecode)
        warm = [_start(settings, bytecode) for _ in range(settings.steps)]
    parts = {part: statistics.median(run[part] for run in warm) for part in _PARTS}
    return {
        "what": "start",
        "model": settings.model,
        "threads": settings.threads,
        "cold_s": cold["total_s"],
        "warm_s": statistics.median(run["total_s"] for run in warm),
        **parts,
        "peak_bytes": max(run["peak_bytes"] for run in warm),
        "network": warm[0]["network"],
        "runs": [cold, *warm],
    }


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """What it is shown as."""
    count = len(figures["runs"]) - 1
    yield f"start to first token  {figures['model']}  {figures['threads']} threads"
    yield f"  cold                 {figures['cold_s']:.2f} s (Python compiles every module)"
    yield f"  warm                 {figures['warm_s']:.2f} s (median of {count})"
    yield "  of it                " + ", ".join(f"{part[:-2]} {figures[part]:.2f} s" for part in _PARTS)
    yield from disturbance([run["others_share"] for run in figures["runs"]])
    yield f"  peak memory          {figures['peak_bytes'] / 1e6:,.0f} MB, {figures['network']}"


def _start(settings: Settings, environment: dict[str, str]) -> dict[str, Any]:
    begin = time.monotonic()  # the same clock in every process
    command = [sys.executable, "-m", _FIRST_TOKEN, settings.model]
    finished = run_program(command, threads=settings.threads, environment=environment)
    moments = finished.rows[-1]
    points = [begin, moments["imported"], moments["loaded"], moments["first_token"]]
    parts = {part: after - before for part, before, after in zip(_PARTS, points, points[1:], strict=False)}
    beside = {"peak_bytes": finished.peak_bytes, "others_share": finished.others_share, "network": moments["network"]}
    return {"total_s": points[-1] - begin, **parts, **beside}
