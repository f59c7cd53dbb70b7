"""Evaluation while training (`do_eval`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.state import RunState

DEFAULT_STEP_INTERVAL = 100


@CALLBACKS.register()
class EvalCallBack(Callback):
    """Calls `eval_func`, which returns a dict, every `step_interval` steps and every `epoch_interval` epochs.

    An interval of 0 or None takes the default (100 steps, no epochs), one below 0 never comes. With sinking an epoch
    is a sink, as in MindFormers.
    """

    def __init__(
        self,
        *,
        eval_func: Callable[[], dict[str, Any]] | None = None,
        step_interval: int | None = DEFAULT_STEP_INTERVAL,
        epoch_interval: int | None = -1,
    ) -> None:
        if eval_func is None:
            fix = "It is added by do_eval: True; take it out of the list."
            raise ConfigError("callbacks.EvalCallBack", "EvalCallBack", fix)
        self.eval_func = eval_func
        self.step_interval = DEFAULT_STEP_INTERVAL if step_interval is None else int(step_interval)
        self.epoch_interval = int(epoch_interval or -1)
        self.results: list[tuple[int, dict[str, Any]]] = []  # (completed steps, result)

    def on_train_begin(self, state: RunState) -> None:
        """Makes up for the evaluation that a resumed checkpoint was saved without, as when the evaluation failed."""
        known = bool(state.evaluations) and state.evaluations[-1][0] >= state.done
        if state.resumed and self._due(state) and not known:
            self._evaluate(state)

    def on_step_end(self, state: RunState) -> None:
        """Evaluates when it is time."""
        if self._due(state):
            self._evaluate(state)

    def _due(self, state: RunState) -> bool:
        by_step = self.step_interval > 0 and state.done % self.step_interval == 0
        unit = state.plan.unit
        by_epoch = self.epoch_interval > 0 and state.done % (unit * self.epoch_interval) == 0
        return by_step or by_epoch

    def _evaluate(self, state: RunState) -> None:
        begin = time.perf_counter()
        state.network.set_train(False)
        try:
            result = self.eval_func()
        finally:
            state.network.set_train(True)
        self.results.append((state.done, result))
        state.evaluations.append((state.done, result))
        logger.info("Eval result: %s, eval time is %f s.", result, time.perf_counter() - begin)
