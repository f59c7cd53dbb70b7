"""Which parameters decay: groups as MindSpore writes them, and their flat reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mindspore import Parameter

from mindformers_glm.errors import ConfigError


class Decayed(NamedTuple):
    """A parameter and its weight decay."""

    parameter: Parameter
    weight_decay: float


def decay_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, decayed and not: parameters of one dimension and those named `.bias` do not decay.

    Either group is left out when it would be empty. The decay given holds whatever the order of the parameters
    (in MindFormers a leading one-dimensional parameter switched it off for all).
    """
    decayed: list[Parameter] = []
    plain: list[Parameter] = []
    for parameter in parameters:
        (plain if len(parameter.shape) == 1 or parameter.name.endswith(".bias") else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": float(weight_decay)},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def flatten(parameters: Iterable[Any], weight_decay: float) -> list[Decayed]:
    """Every parameter with its decay, from a plain list or from groups.

    In a plain list names containing "beta" or "gamma" do not decay, MindSpore's rule for lists without groups.

    Raises:
        ConfigError: a group has a key that has no effect here, or there is nothing to train.
    """
    rows: list[Decayed] = []
    for item in parameters:
        if isinstance(item, Mapping):
            unknown = set(item) - {"params", "weight_decay"}
            if unknown:
                key = sorted(unknown)[0]
                raise ConfigError(f"optimizer.params.{key}", item[key], "A group has `params` and `weight_decay`.")
            decay = float(item.get("weight_decay", weight_decay))
            rows += [Decayed(parameter, decay) for parameter in item["params"]]
        else:
            exempt = "beta" in item.name or "gamma" in item.name
            rows.append(Decayed(item, 0.0 if exempt else float(weight_decay)))
    if not rows:
        raise ConfigError("optimizer.params", [], "No parameter is trainable. Check pet_config and what is frozen.")
    return rows
