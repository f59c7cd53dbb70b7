"""Times of repeated work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def seconds(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def repeated(work: Callable[[], Any], times: int) -> list[float]:
    """How long each of several calls takes."""
    return [seconds(work) for _ in range(times)]


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, quickest and slowest tenth of times in seconds, as milliseconds."""
    ordered = sorted(times)
    place = len(ordered) // 10
    return {
        "ms_median": statistics.median(ordered) * 1e3,
        "ms_low": ordered[place] * 1e3,
        "ms_high": ordered[-1 - place] * 1e3,
    }
