"""Which of several evaluations is the best: by one figure, the least or the greatest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mindformers_glm.errors import ConfigError

MODES = ("auto", "max", "min")
_FALLS = ("loss", "ppl", "perplexity", "error", "bits_per_byte")  # figures that are better when they are less
Evaluations = Sequence[tuple[int, Mapping[str, Any]]]


class Best(NamedTuple):
    """`step` counts the steps completed before the evaluation."""

    step: int
    name: str
    value: float


class Goal(NamedTuple):
    """`metric` names the figure (the first of an evaluation where it is None); `mode` auto goes by its name."""

    metric: str | None = None
    mode: str = "auto"

    def name_in(self, figures: Mapping[str, Any], key: str) -> str:
        """The figure's name as the evaluation writes it; case makes no difference.

        Raises:
            ConfigError: the evaluation has no such figure; `key` is what the user wrote it under.
        """
        names = [name for name, value in figures.items() if is_number(value)]
        found = [name for name in names if self.metric is None or name.lower() == self.metric.lower()]
        if not found:
            told = (
                f"The evaluation gives {', '.join(names)}." if names else "The evaluation gives no figure: set metric."
            )
            raise ConfigError(key, self.metric, told)
        return self.metric if self.metric in found else found[0]

    def falls(self, name: str) -> bool:
        """Whether less is better."""
        return self.mode == "min" or (self.mode == "auto" and any(name.lower().endswith(word) for word in _FALLS))

    def beats(self, name: str, value: float, other: float | None, min_delta: float = 0.0) -> bool:
        """Whether a figure is better than another by more than `min_delta`; nan is never, anything else beats None."""
        sign = -1.0 if self.falls(name) else 1.0
        return not math.isnan(value) and (other is None or sign * (value - other) > min_delta)

    def best(self, evaluations: Evaluations, key: str, *, min_delta: float = 0.0) -> tuple[Best | None, int]:
        """The best evaluation (the first of equals), and how many came after it.

        One is better when it beats the best before it by more than `min_delta`; nan beats nothing.

        Raises:
            ConfigError: see name_in.
        """
        best: Best | None = None
        after = 0
        for step, figures in evaluations:
            name = self.name_in(figures, key)
            value = float(figures[name])
            ahead = self.beats(name, value, None if best is None else best.value, min_delta)
            best, after = (Best(step, name, value), 0) if ahead else (best, after + 1)
        return best, after


def make_goal(metric: str | None, mode: str, key: str) -> Goal:
    """A goal from what a user wrote under `key`.

    Raises:
        ConfigError: a mode that nobody has, or a metric that is no name.
    """
    if mode not in MODES:
        raise ConfigError(f"{key}.mode", mode, "Use max, min or auto (by the figure's name).")
    if metric is not None and not (isinstance(metric, str) and metric.strip()):
        raise ConfigError(f"{key}.metric", metric, "Name a figure of the evaluation, such as PPL or rouge-1.")
    return Goal(metric, mode)


def plain(evaluations: Iterable[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, dict[str, float]]]:
    """Evaluations as a checkpoint keeps them: their numbers alone."""
    return [
        (step, {str(name): float(value) for name, value in figures.items() if is_number(value)})
        for step, figures in evaluations
    ]


def is_number(value: Any) -> bool:
    """Whether a figure is one number."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
