"""The state of an optimizer as arrays, for checkpoints: whatever it keeps beside the weights and the learning rate."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.optim.interface import LEARNING_RATE, Extent, declare_states, is_counter, state_of


def state_parameters(optimizer: nn.Cell) -> dict[str, Parameter]:
    """Name -> Parameter of everything the optimizer updates beside the weights, in its own order.

    Of an optimizer around another (`inner`, a divided one) the state is the inner one's.
    """
    optimizer = getattr(optimizer, "inner", optimizer)
    weights = {id(parameter) for parameter in optimizer.parameters}
    return {
        parameter.name: parameter
        for parameter in optimizer.get_parameters()
        if id(parameter) not in weights and parameter.name != LEARNING_RATE
    }


def check_optimizer(optimizer: nn.Cell) -> None:
    """Makes sure that an optimizer can be trained with (see `interface.Optimizer`).

    States under names that are not known, of an optimizer that somebody has brought along, are declared: those of
    their parameter's shape are divided as it is.

    Raises:
        ConfigError: it has no `parameters`, or no single learning rate that a run could set.
    """
    kind = type(optimizer).__name__
    if not getattr(optimizer, "parameters", None):
        raise ConfigError("optimizer", kind, "It has no `parameters`. Give an optimizer of mindspore.nn.")
    if not isinstance(getattr(optimizer, "learning_rate", None), Parameter):
        fix = "The run sets its learning rate before every step: give it one number, and the schedule as lr_schedule."
        raise ConfigError("optimizer.learning_rate", kind, fix)
    shapes = {parameter.name: tuple(parameter.shape) for parameter in getattr(optimizer, "inner", optimizer).parameters}
    for name, state in state_parameters(optimizer).items():
        if state_of(name) is not None or is_counter(name):
            continue
        owner = next((one for one in sorted(shapes, key=len, reverse=True) if name.endswith(one) and name != one), None)
        if owner is not None and tuple(state.shape) == shapes[owner]:
            declare_states({name.removesuffix(owner): Extent.ELEMENTS})


def optimizer_arrays(optimizer: nn.Cell) -> dict[str, np.ndarray]:
    """Name -> array. On the CPU the arrays are live views: copy what must not change."""
    return {name: parameter.asnumpy() for name, parameter in state_parameters(optimizer).items()}


def load_optimizer(optimizer: nn.Cell, arrays: Mapping[str, np.ndarray], *, place: str) -> None:
    """Sets the optimizer's state; `place` names the checkpoint in messages.

    `global_step` may be absent (an optimizer without bias correction did not write it).

    Raises:
        CheckpointError: an array is missing or has another shape. Nothing has been changed then.
    """
    wanted = state_parameters(optimizer)
    missing = [name for name in wanted if name not in arrays and name != "global_step"]
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        fix = "Resume with the optimizer and the trainable parameters it was saved with."
        raise CheckpointError(place, f"no optimizer state for {names}", fix)
    for name, parameter in wanted.items():
        if name in arrays and np.shape(arrays[name]) != tuple(parameter.shape):
            fault = f"{name} has shape {np.shape(arrays[name])}, the run needs {tuple(parameter.shape)}"
            raise CheckpointError(place, fault, "Resume with the settings it was saved with.")
    for name, parameter in wanted.items():
        if name in arrays:
            value = np.array(arrays[name])
            parameter.set_data(Tensor(value, ms.float32 if value.dtype.kind == "f" else None).astype(parameter.dtype))
