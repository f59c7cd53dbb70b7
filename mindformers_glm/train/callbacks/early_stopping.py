"""Ends a run whose evaluations do not get better any more."""

from __future__ import annotations

from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.goal import make_goal
from mindformers_glm.train.state import RunState

_KEY = "callbacks.EarlyStopping"


@CALLBACKS.register()
class EarlyStopping(Callback):
    """Ends training after `patience` evaluations in a row of which none beat the best by more than `min_delta`.

    `metric` names a figure of the evaluation (its first one); `mode` is max, min, or auto by the figure's name. The
    decision follows from the evaluations alone, which lie in the checkpoint: a resumed run ends where one that was
    never interrupted does.
    """

    needs_evaluations = True

    def __init__(
        self, *, patience: int = 3, min_delta: float = 0.0, metric: str | None = None, mode: str = "auto"
    ) -> None:
        if int(patience) < 1:
            raise ConfigError(f"{_KEY}.patience", patience, "Use 1 or more evaluations.")
        if not float(min_delta) >= 0:
            raise ConfigError(f"{_KEY}.min_delta", min_delta, "Use 0 or more.")
        self.patience, self.min_delta = int(patience), float(min_delta)
        self.goal = make_goal(metric, mode, _KEY)
        self._seen: Any = None

    def on_train_begin(self, state: RunState) -> None:
        """A resumed run may have come to its end."""
        self._decide(state)

    def on_step_end(self, state: RunState) -> None:
        """Decides after an evaluation."""
        if state.evaluations and state.evaluations[-1][0] == state.done:
            self._decide(state)

    def _decide(self, state: RunState) -> None:
        best, after = self.goal.best(state.evaluations, f"{_KEY}.metric", min_delta=self.min_delta)
        if after < self.patience or state.ends_early:
            return
        state.ends_early = True
        told = "no figure was a number" if best is None else f"{best.name} {best.value:.4f} of step {best.step} is best"
        logger.info(
            "Training ends early after step %d: %d evaluation(s) in a row brought nothing better (%s). To go on, raise "
            "EarlyStopping.patience, or take it out of callbacks.",
            *(state.done, after, told),
        )
