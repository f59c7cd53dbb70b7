"""What turns gradients into new weights: schedules, optimizers, clipping, loss scale."""

from mindformers_glm.optim import native, native_schedules  # noqa: F401 - register MindSpore's own
from mindformers_glm.optim.adam import AdamW, FP32StateAdamWeightDecay
from mindformers_glm.optim.clip import SquaredNorm, clip_coefficient, scale_gradients
from mindformers_glm.optim.groups import decay_groups
from mindformers_glm.optim.loss_scale import LossScale, build_loss_scale
from mindformers_glm.optim.schedules import Schedule, build_schedule
from mindformers_glm.optim.state import load_optimizer, optimizer_arrays, state_parameters

__all__ = [
    "AdamW",
    "FP32StateAdamWeightDecay",
    "LossScale",
    "Schedule",
    "SquaredNorm",
    "build_loss_scale",
    "build_schedule",
    "clip_coefficient",
    "decay_groups",
    "load_optimizer",
    "optimizer_arrays",
    "scale_gradients",
    "state_parameters",
]
