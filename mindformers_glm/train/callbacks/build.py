"""The callbacks of a run from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.callbacks.checkpoint_monitor import CheckpointMonitor
from mindformers_glm.train.callbacks.early_stopping import EarlyStopping
from mindformers_glm.train.callbacks.evaluation import EvalCallBack
from mindformers_glm.train.callbacks.history import LossHistory
from mindformers_glm.train.callbacks.loss_monitor import ProgressBar
from mindformers_glm.train.goal import Goal


def build_callbacks(
    specs: Sequence[Mapping[str, Any] | Callback] | None,
    *,
    evaluate: Callable[[], dict[str, Any]] | None = None,
    eval_step_interval: int | None = None,
    eval_epoch_interval: int | None = None,
    load_best_at_end: bool = False,
) -> list[Callback]:
    """The callbacks of `specs` in their order, between a progress bar and loss history that every run has.

    `evaluate`, when given, is called at the intervals (see EvalCallBack), before the first callback that saves or
    compares, so that a checkpoint holds the evaluation of its step; without such a one last of all. `load_best_at_end`
    ends the run with the weights of its best evaluation.

    Raises:
        ConfigError: unknown name or argument, an optional package is missing, or there is nothing to compare.
    """
    chosen = [
        spec if isinstance(spec, Callback) else CALLBACKS.build(spec, f"callbacks.{index}")
        for index, spec in enumerate(specs or [])
    ]
    callbacks = [ProgressBar(), *chosen, LossHistory()]
    if evaluate is not None:
        intervals = {"step_interval": eval_step_interval, "epoch_interval": eval_epoch_interval}
        after = (CheckpointMonitor, EarlyStopping)
        place = next((n for n, one in enumerate(callbacks) if isinstance(one, after)), len(callbacks))
        callbacks.insert(place, EvalCallBack(eval_func=evaluate, **intervals))
    if load_best_at_end:
        _load_best(callbacks)
    evaluates = any(isinstance(one, EvalCallBack) for one in callbacks)
    for callback in callbacks:
        if getattr(callback, "needs_evaluations", False) and not evaluates:
            name = type(callback).__name__ + (".keep_best" if isinstance(callback, CheckpointMonitor) else "")
            raise ConfigError(f"callbacks.{name}", None, "It compares evaluations: set do_eval: True.")
    return callbacks


def _load_best(callbacks: Sequence[Callback]) -> None:
    monitor = next((one for one in callbacks if isinstance(one, CheckpointMonitor)), None)
    if monitor is None:
        fix = "Add CheckpointMonitor to callbacks: it keeps the best checkpoint."
        raise ConfigError("load_best_at_end", True, fix)
    monitor.keep_best = monitor.keep_best or Goal()
    monitor.load_best = True
