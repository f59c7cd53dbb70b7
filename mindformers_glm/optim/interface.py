"""What an optimizer is to a training step, and which names in a checkpoint are its states: the one home of both.

A state of a parameter is called after it, `adam_m.<parameter>`. Whoever divides, merges, reads or skips states asks
here; an optimizer that brings names of its own declares them with `declare_states`. Nothing here needs MindSpore.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol


class Optimizer(Protocol):
    """Called with one gradient for each of `parameters`, in their order, it updates them in place.

    `learning_rate` is a Parameter () that the training step assigns before each call. An optimizer may also have
    `scaled(grads, factor)`, which updates from factor * gradients in one pass.
    """

    parameters: Sequence[Any]
    learning_rate: Any

    def __call__(self, grads: tuple[Any, ...]) -> Any:
        """Updates every parameter; what it returns stands for "done" inside a graph."""
        ...


class Extent(Enum):
    """What part of its parameter a state has a number for."""

    ELEMENTS = "each element"  # shape of the parameter: divided as the parameter is
    FACTORS = "each row and column"  # means over the other axis: only of whole parameters
    WHOLE = "the whole parameter"  # one number, equal on every rank


class State(NamedTuple):
    """The reading of a name: the state called `prefix` (with its joint, `adam_m.`) of `parameter`."""

    prefix: str
    parameter: str
    extent: Extent


# prefix with its joint -> extent; sources: `clone(prefix=...)` and `Parameter(name=...)` in mindspore/nn/optim
_STATES: dict[str, Extent] = {
    **dict.fromkeys(
        (
            *("adam_m.", "adam_v."),  # adam.py of this package, AdamWeightDecay, AdamOffload
            *("moment1.", "moment2.", "vhat."),  # Adam, LazyAdam, AdaMax; vhat with use_amsgrad
            *("moments.", "linear."),  # Momentum, FTRL
            *("accum.", "stat.", "accum_update."),  # Adagrad, ProximalAdagrad, SGD, Adadelta
            *("mean_square.", "mean_grad.", "moment."),  # RMSProp; mean_grad with centered
            *("lamb_m.", "lamb_v."),  # Lamb
            *("prev.", "step_size."),  # Rprop
            "ax_.",  # ASGD
            "exp_avg.",  # AdaFactor
            "accu_grads.",  # gradients that MindSpore adds up between updates
        ),
        Extent.ELEMENTS,
    ),
    "exp_avg_sq_row_": Extent.FACTORS,  # AdaFactor
    "exp_avg_sq_col_": Extent.FACTORS,
    "exp_avg_sq_": Extent.FACTORS,  # with elements where a parameter has one axis alone
    "mu_": Extent.WHOLE,  # ASGD
    "eta_": Extent.WHOLE,
}

# What an optimizer keeps once for all parameters. The learning rate is assigned anew before every step.
COUNTERS = frozenset({"global_step", "beta1_power", "beta2_power", "momentum", "afactor_step"})
LEARNING_RATE = "learning_rate"

# Optimizers whose update of one element depends on all others of its parameter (norms, means over rows): the part of
# a parameter that a tensor rank or a divided state holds would be updated otherwise than in the whole.
_NEED_WHOLE = {"Lamb", "AdaFactor", "LARS", "ThorGpu", "ThorAscend"}


def declare_states(extents: dict[str, Extent]) -> None:
    """Makes the states of a further optimizer known: prefix with its joint -> extent.

    Raises:
        ValueError: the prefix is known with another extent.
    """
    for prefix, extent in extents.items():
        if _STATES.setdefault(prefix, extent) is not extent:
            raise ValueError(f"the state {prefix!r} is known as one of {_STATES[prefix].value}")


def state_of(name: str) -> State | None:
    """Which state of which parameter a name stands for; None for parameters, counters and unknown names."""
    prefix = max((one for one in _STATES if name.startswith(one) and name != one), key=len, default=None)
    return None if prefix is None else State(prefix, name[len(prefix) :], _STATES[prefix])


def parameter_of(name: str) -> str:
    """The parameter whose elements a name has numbers for: that of a state, or the name itself."""
    state = state_of(name)
    return state.parameter if state is not None and state.extent is Extent.ELEMENTS else name


def is_counter(name: str) -> bool:
    """True for what an optimizer keeps once for all parameters, the learning rate (of a group too) included."""
    return name in COUNTERS or name.startswith(LEARNING_RATE)


def needs_whole_parameters(optimizer: Any) -> bool:
    """True for an optimizer (or its class) that is right on whole parameters only, not on rows or columns of them.

    A class says so itself with `needs_whole_parameters = True`.
    """
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    told = getattr(optimizer, "needs_whole_parameters", None)
    return bool(told) if told is not None else any(base.__name__ in _NEED_WHOLE for base in kind.__mro__)


def unknown_state(name: str, parameters: Iterable[str]) -> str | None:
    """The one of `parameters` after which a name is called that is no state known here; None when there is none."""
    if state_of(name) is not None or is_counter(name):
        return None
    known, rest = set(parameters), name
    while "." in rest:
        rest = rest.partition(".")[2]
        if rest in known:
            return rest
    return None
