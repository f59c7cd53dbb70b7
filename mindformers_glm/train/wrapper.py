"""`runner_wrapper`: MindFormers' and MindSpore's step classes, here settings for TrainStep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.optim import LossScale, build_loss_scale
from mindformers_glm.registry import WRAPPERS

_KEY = "runner_wrapper"


class StepSettings(NamedTuple):
    """What a wrapper asks of a step."""

    loss_scale: LossScale
    max_grad_norm: float | None = None  # None: no clipping
    shows_scale: bool = False  # the log line names the scale; a plain step says "unavailable"


def build_wrapper(spec: Mapping[str, Any] | None) -> StepSettings:
    """The settings of a `runner_wrapper` section; without one a plain step.

    Raises:
        ConfigError: unknown name or argument, or a value that cannot be honoured.
    """
    return WRAPPERS.build(spec or {"type": "TrainOneStepCell"}, _KEY)


@WRAPPERS.register("mf_wrapper")
def MFTrainOneStepCell(  # noqa: N802 - the name users write
    *, use_clip_grad: bool = False, max_grad_norm: float = 1.0, scale_sense: Any = 1.0, local_norm: bool = False
) -> StepSettings:
    """Loss scale, clipping by global norm when asked, updates skipped on overflow."""
    norm = float(max_grad_norm)
    if not norm > 0:
        raise ConfigError(f"{_KEY}.max_grad_norm", max_grad_norm, "Use a number above 0, or use_clip_grad: False.")
    return StepSettings(build_loss_scale(scale_sense, f"{_KEY}.scale_sense"), norm if use_clip_grad else None, True)


@WRAPPERS.register("pipeline_wrapper")
def MFPipelineWithLossScaleCell(  # noqa: N802
    *,
    use_clip_grad: bool = True,
    max_grad_norm: float = 1.0,
    scale_sense: Any = 1.0,
    micro_batch_num: int = 1,
    local_norm: bool = False,
) -> StepSettings:
    """The same; `micro_batch_num` is taken from parallel_config."""
    return MFTrainOneStepCell(use_clip_grad=use_clip_grad, max_grad_norm=max_grad_norm, scale_sense=scale_sense)


@WRAPPERS.register("wrapper")
def TrainOneStepCell(*, sens: float = 1.0) -> StepSettings:  # noqa: N802
    """A plain step: no loss scale, no clipping."""
    if float(sens) != 1.0:
        fix = "It multiplies every gradient and was never divided out: leave it 1 and change the learning rate."
        raise ConfigError(f"{_KEY}.sens", sens, fix)
    return StepSettings(build_loss_scale(None))


@WRAPPERS.register("loss_scale_wrapper")
def TrainOneStepWithLossScaleCell(*, scale_sense: Any = 1.0) -> StepSettings:  # noqa: N802
    """Loss scale without clipping."""
    return StepSettings(build_loss_scale(scale_sense, f"{_KEY}.scale_sense"), None, True)
