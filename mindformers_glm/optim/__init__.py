"""What turns gradients into new weights: schedules, optimizers, clipping, loss scale.

A name is imported when it is asked for: what optimizers call their states is known without MindSpore (interface.py).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mindformers_glm.optim.interface import Extent, Optimizer, declare_states

if TYPE_CHECKING:
    from mindformers_glm.optim.adam import AdamW, FP32StateAdamWeightDecay
    from mindformers_glm.optim.clip import SquaredNorm, clip_coefficient, scale_gradients
    from mindformers_glm.optim.groups import decay_groups
    from mindformers_glm.optim.lamb import Lamb
    from mindformers_glm.optim.loss_scale import LossScale, build_loss_scale
    from mindformers_glm.optim.schedules import Schedule, build_schedule
    from mindformers_glm.optim.state import check_optimizer, load_optimizer, optimizer_arrays, state_parameters

_PLACES = {
    "adam": "AdamW FP32StateAdamWeightDecay",
    "clip": "SquaredNorm clip_coefficient scale_gradients",
    "groups": "decay_groups",
    "lamb": "Lamb",
    "loss_scale": "LossScale build_loss_scale",
    "schedules": "Schedule build_schedule",
    "state": "check_optimizer load_optimizer optimizer_arrays state_parameters",
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names.split()}

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


def __getattr__(name: str) -> Any:
    """One of the names above, whose module is imported when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
