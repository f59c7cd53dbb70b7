"""The callbacks of a run from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.callbacks.evaluation import EvalCallBack
from mindformers_glm.train.callbacks.history import LossHistory
from mindformers_glm.train.callbacks.loss_monitor import ProgressBar


def build_callbacks(
    specs: Sequence[Mapping[str, Any] | Callback] | None,
    *,
    evaluate: Callable[[], dict[str, Any]] | None = None,
    eval_step_interval: int | None = None,
    eval_epoch_interval: int | None = None,
) -> list[Callback]:
    """The callbacks of `specs` in their order, between a progress bar and loss history that every run has.

    `evaluate`, when given, is called at the intervals (see EvalCallBack), last of all.

    Raises:
        ConfigError: unknown name or argument, or an optional package is missing.
    """
    chosen = [
        spec if isinstance(spec, Callback) else CALLBACKS.build(spec, f"callbacks.{index}")
        for index, spec in enumerate(specs or [])
    ]
    callbacks = [ProgressBar(), *chosen, LossHistory()]
    if evaluate is not None:
        intervals = {"step_interval": eval_step_interval, "epoch_interval": eval_epoch_interval}
        callbacks.append(EvalCallBack(eval_func=evaluate, **intervals))
    return callbacks
