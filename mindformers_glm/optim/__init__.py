"""What turns gradients into new weights: schedules, optimizers, clipping, loss scale."""

from importlib.util import find_spec

from mindformers_glm.optim.interface import Extent, Optimizer, declare_states

if find_spec("mindspore"):  # the names of states are known without it, where only MindSpore Lite is installed
    from mindformers_glm.optim import native, native_schedules  # noqa: F401 - register MindSpore's own
    from mindformers_glm.optim.adam import AdamW, FP32StateAdamWeightDecay
    from mindformers_glm.optim.clip import SquaredNorm, clip_coefficient, scale_gradients
    from mindformers_glm.optim.groups import decay_groups
    from mindformers_glm.optim.lamb import Lamb
    from mindformers_glm.optim.loss_scale import LossScale, build_loss_scale
    from mindformers_glm.optim.schedules import Schedule, build_schedule
    from mindformers_glm.optim.state import check_optimizer, load_optimizer, optimizer_arrays, state_parameters

__all__ = [
    "AdamW",
    "Extent",
    "FP32StateAdamWeightDecay",
    "Lamb",
    "LossScale",
    "Optimizer",
    "Schedule",
    "SquaredNorm",
    "build_loss_scale",
    "build_schedule",
    "check_optimizer",
    "clip_coefficient",
    "decay_groups",
    "declare_states",
    "load_optimizer",
    "optimizer_arrays",
    "scale_gradients",
    "state_parameters",
]
