"""A run's figures to a tracker: train/trackers has those that exist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.state import RunState
from mindformers_glm.train.trackers.interface import Begun, Status, Tracker


class Tracking(Callback):
    """Drives a tracker, on rank 0: loss, learning rate, loss scale, gradient norm and tokens per second every
    `collect_freq` steps, evaluations as `eval/NAME` when they are made.

    `settings` are those of the run, nested. A resumed run is another run to the tracker, from its step on.
    """

    def __init__(self, tracker: Tracker, settings: Mapping[str, Any] | None = None) -> None:
        self.tracker, self.settings = tracker, flat(settings or {})
        self._status: Status | None = None  # of a run that has begun
        self._told = 0  # evaluations

    def on_train_begin(self, state: RunState) -> None:
        """Opens the run."""
        if state.rank == 0:
            self.tracker.begin(Begun(state.output_dir, state.output_dir.absolute().name, self.settings))
            self._status, self._told = "failed", len(state.evaluations)

    def on_step_end(self, state: RunState) -> None:
        """Tells the figures of a step when it is time, and evaluations at once."""
        if self._status is None:
            return
        if state.done % self.tracker.collect_freq == 0 or state.is_last:
            self.tracker.log(state.done, figures_of(state))
        self._tell_evaluations(state)

    def on_train_end(self, state: RunState) -> None:
        """Tells what came after the last step."""
        if self._status is not None:
            self._tell_evaluations(state)
            self._status = "finished"

    def on_interrupt(self, state: RunState) -> None:
        """The user ended the run."""
        self._status = None if self._status is None else "interrupted"

    def close(self, state: RunState) -> None:
        """Closes the run."""
        if self._status is not None:
            self.tracker.end(self._status)
            self._status = None

    def _tell_evaluations(self, state: RunState) -> None:
        for step, found in state.evaluations[self._told :]:
            self.tracker.log(step, {f"eval/{name}": float(value) for name, value in found.items()})
        self._told = len(state.evaluations)


def figures_of(state: RunState) -> dict[str, float]:
    """The numbers of the last step that are finite."""
    result = state.result
    figures = {name: float(getattr(result, name)) for name in ("loss", "learning_rate", "loss_scale", "grad_norm")}
    if not state.first_step and state.step_seconds > 0:
        figures["tokens_per_second"] = state.tokens * state.data_ranks / state.step_seconds
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as `a.b: value`, without those that are None."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        elif value is not None:
            found[f"{above}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found
