"""Which parameters decay, and which learn at a rate of their own: groups as MindSpore writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mindspore import Parameter

from mindformers_glm.errors import ConfigError


class Decayed(NamedTuple):
    """A parameter, its weight decay, and its learning rate as a multiple of the run's."""

    parameter: Parameter
    weight_decay: float
    lr_ratio: float = 1.0


def decay_groups(
    parameters: Iterable[Parameter], weight_decay: float, lr_ratio: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """Groups, decayed and not: parameters of one dimension and those named `.bias` do not decay.

    `lr_ratio` tells of a name how many times the run's learning rate it learns with; other ratios than 1 are groups of
    their own, which have the key `lr_ratio` (LoRA+).

    Either group is left out when it would be empty. The decay given holds whatever the order of the parameters
    (in MindFormers a leading one-dimensional parameter switched it off for all).
    """
    groups: dict[tuple[float, bool], list[Parameter]] = {(1.0, False): [], (1.0, True): []}
    for parameter in parameters:
        is_plain = len(parameter.shape) == 1 or parameter.name.endswith(".bias")
        groups.setdefault((lr_ratio(parameter.name), is_plain), []).append(parameter)
    return [
        {"params": those, "weight_decay": 0.0 if is_plain else float(weight_decay)}
        | ({} if ratio == 1.0 else {"lr_ratio": ratio})
        for (ratio, is_plain), those in groups.items()
        if those
    ]


def flatten(parameters: Iterable[Any], weight_decay: float) -> list[Decayed]:
    """Every parameter with its decay, from a plain list or from groups.

    In a plain list names containing "beta" or "gamma" do not decay, MindSpore's rule for lists without groups.

    Raises:
        ConfigError: a group has a key that has no effect here, or there is nothing to train.
    """
    rows: list[Decayed] = []
    for item in parameters:
        if isinstance(item, Mapping):
            unknown = set(item) - {"params", "weight_decay", "lr_ratio"}
            if unknown:
                key = sorted(unknown)[0]
                fix = "A group has `params`, `weight_decay` and `lr_ratio`."
                raise ConfigError(f"optimizer.params.{key}", item[key], fix)
            decay, ratio = float(item.get("weight_decay", weight_decay)), float(item.get("lr_ratio", 1.0))
            rows += [Decayed(parameter, decay, ratio) for parameter in item["params"]]
        else:
            exempt = "beta" in item.name or "gamma" in item.name
            rows.append(Decayed(item, 0.0 if exempt else float(weight_decay)))
    if not rows:
        raise ConfigError("optimizer.params", [], "No parameter is trainable. Check pet_config and what is frozen.")
    return rows
