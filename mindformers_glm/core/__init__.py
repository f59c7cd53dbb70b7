"""The import path of MindFormers for what a run is built of: rates, optimizers, metrics, callbacks, wrappers.

The builders take a section (`type` and arguments), or `class_name` and arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_glm.evaluation.metrics import ADGENMetric, EmF1Metric, PerplexityMetric
from mindformers_glm.optim import build_schedule
from mindformers_glm.registry import CALLBACKS, METRICS, OPTIMIZERS
from mindformers_glm.tools.register import with_type
from mindformers_glm.train.callbacks import (
    CheckpointMonitor,
    EarlyStopping,
    EvalCallBack,
    MFLossMonitor,
    ObsMonitor,
    ProfileMonitor,
    SummaryMonitor,
)
from mindformers_glm.train.wrapper import build_wrapper

CheckpointMointor = CheckpointMonitor  # as MindFormers 0.8 to 1.1 spell it

__all__ = [
    "ADGENMetric",
    "CheckpointMointor",
    "CheckpointMonitor",
    "EarlyStopping",
    "EmF1Metric",
    "EvalCallBack",
    "MFLossMonitor",
    "ObsMonitor",
    "PerplexityMetric",
    "ProfileMonitor",
    "SummaryMonitor",
    "build_callback",
    "build_lr",
    "build_metric",
    "build_optim",
    "build_wrapper",
]


def build_lr(config: Any = None, class_name: str | None = None, **arguments: Any) -> Any:
    """The learning-rate schedule, a function of the step."""
    return build_schedule(with_type(config, class_name, arguments) if config is None else config)


def build_optim(config: Mapping[str, Any] | None = None, class_name: str | None = None, **arguments: Any) -> Any:
    """The optimizer; `params=` are the parameters that it trains."""
    runtime = {name: arguments.pop(name) for name in ("params",) if name in arguments}
    return OPTIMIZERS.build(with_type(config, class_name, arguments), "optimizer", **runtime)


def build_metric(config: Mapping[str, Any] | None = None, class_name: str | None = None, **arguments: Any) -> Any:
    """The metric."""
    return METRICS.build(with_type(config, class_name, arguments), "metric")


def build_callback(
    config: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    class_name: str | None = None,
    **arguments: Any,
) -> list[Any]:
    """The callbacks of a section or of a list of sections."""
    sections = config if isinstance(config, Sequence) else [with_type(config, class_name, arguments)]
    return [CALLBACKS.build(section, "callbacks") for section in sections]
