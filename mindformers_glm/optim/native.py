"""The optimizers of `mindspore.nn` under their names and MindFormers' aliases, with checked arguments.

Each has `parameters` and a Parameter `learning_rate` that the trainer assigns, like the ones in adam.py. Their
`weight_decay` is added to the gradient, as MindSpore documents.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mindspore import nn

from mindformers_glm.errors import ConfigError
from mindformers_glm.optim.groups import flatten
from mindformers_glm.registry import OPTIMIZERS


class _Native(NamedTuple):
    """A class of mindspore.nn: MindFormers' alias, and the arguments beside params, learning_rate, weight_decay."""

    name: str
    aliases: tuple[str, ...]
    settings: dict[str, Any]


_BETAS = {"beta1": 0.9, "beta2": 0.999}
_NATIVES = (
    _Native("Adam", ("adam",), {**_BETAS, "eps": 1e-8, "use_nesterov": False, "use_amsgrad": False}),
    _Native("SGD", ("sgd",), {"momentum": 0.0, "dampening": 0.0, "nesterov": False}),
    _Native("Momentum", ("momentum",), {"momentum": 0.9, "use_nesterov": False}),
    _Native("Adagrad", ("adagrad",), {"accum": 0.1, "update_slots": True}),
    _Native(
        "AdaFactor",
        ("adafactor",),
        {"clip_threshold": 1.0, "decay_rate": 0.8, "beta1": 0.9, "scale_parameter": False, "relative_step": False},
    ),
    _Native("RMSProp", (), {"decay": 0.9, "momentum": 0.0, "epsilon": 1e-10, "centered": False}),
    _Native("Adadelta", (), {"rho": 0.9, "epsilon": 1e-6}),
    _Native("AdaMax", (), {**_BETAS, "eps": 1e-8}),
    _Native("ASGD", (), {"lambd": 1e-4, "alpha": 0.75, "t0": 1e6}),
    _Native("FTRL", (), {"initial_accum": 0.1, "lr_power": -0.5, "l1": 0.0, "l2": 0.0}),
    _Native("ProximalAdagrad", (), {"accum": 0.1, "l1": 0.0, "l2": 0.0}),
    _Native("Rprop", (), {}),
    _Native("LazyAdam", (), {**_BETAS, "eps": 1e-8, "use_nesterov": False}),
)


def _factory(native: _Native) -> Callable[..., nn.Cell]:
    defaults = {"learning_rate": 1e-3, "weight_decay": 0.0, **native.settings}

    def build(params: Sequence[Any], **given: Any) -> nn.Cell:
        values = {name: type(default)(given.get(name, default)) for name, default in defaults.items()}
        if values.get("relative_step"):
            raise ConfigError("optimizer.relative_step", True, "The rate comes from lr_schedule: leave it False.")
        rows = flatten(params, 0.0)  # the same faults for the same mistakes as the other optimizers
        if any(row.lr_ratio != 1.0 for row in rows):
            fix = "Learning rates of their own (loraplus_lr_ratio) are of AdamW, FP32StateAdamWeightDecay and Lamb."
            raise ConfigError("optimizer.type", native.name, fix)
        try:
            return getattr(nn, native.name)(list(params), **values)
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ConfigError(
                "optimizer", {"type": native.name, **given}, f"MindSpore refuses it: {reason}."
            ) from error

    build.__name__ = build.__qualname__ = native.name
    build.__doc__ = f"The `mindspore.nn.{native.name}` optimizer."
    build.__annotations__ = {"params": Any, **{name: type(default) for name, default in defaults.items()}}
    parameter = inspect.Parameter
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            parameter("params", parameter.POSITIONAL_OR_KEYWORD),
            *(parameter(name, parameter.KEYWORD_ONLY, default=default) for name, default in defaults.items()),
        ]
    )
    return build


for _native in _NATIVES:
    OPTIMIZERS.register(*_native.aliases)(_factory(_native))
