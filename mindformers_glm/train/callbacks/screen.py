"""One line of figures for a logging step, at most 120 columns wide, the same columns in every line."""

from __future__ import annotations

import math
import resource

from mindformers_glm.train.state import RunState

_LIMIT = 120


class ScreenLine:
    """step 12/100  loss 2.3456  lr 5.0e-05  norm 1.23  12.3k tok/s  12.3k tok/s/p  0.12 s  1.2 GB  eta 0:01:23

    Tokens are those of the batches, padding included; memory is the most that the process has held. Times are means
    since the last line; the first step of a process compiles and counts in none of them ("-" where there is no other).
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []  # of the steps since the last line
        self._all, self._count = 0.0, 0  # of the process, for the time that is left

    def add(self, state: RunState) -> None:
        """Takes note of a step."""
        if not state.first_step:
            seconds = state.step_seconds + state.data_seconds
            self._seconds.append(seconds)
            self._all, self._count = self._all + seconds, self._count + 1

    def text(self, state: RunState) -> str:
        """The line of the step that was just made."""
        result, total = state.last, state.plan.total_steps
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else math.nan
        own = state.tokens / mean if self._seconds and mean > 0 else math.nan
        left = (total - state.done) * self._all / self._count if self._count else math.nan
        norm = "overflow" if result.overflow else f"{result.grad_norm:8.3g}"
        width = len(str(total))
        parts = (
            f"step {state.done:>{width}}/{total}",
            f"loss {result.loss:7.4f}",
            f"lr {result.learning_rate:7.1e}",
            f"norm {norm}",
            f"{_thousands(own * state.data_ranks)} tok/s",
            f"{_thousands(own * state.data_ranks / max(state.rank_size, 1))} tok/s/p",
            f"{_number(mean, 6)} s",
            f"{_memory():5.1f} GB",
            f"eta {_clock(left)}",
        )
        return "  ".join(parts)[:_LIMIT]


def _thousands(value: float) -> str:
    if math.isfinite(value) and value >= 1000:
        return f"{value / 1000:5.1f}k"
    return _number(value, 6)


def _number(value: float, width: int) -> str:
    return f"{value:>{width}.2f}" if math.isfinite(value) else f"{'-':>{width}}"


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return f"{'-':>7}"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
