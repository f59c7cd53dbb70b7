"""What the weights of a network are called and what shape they have: every family's table, asked in one place.

Each family names a module with its table (`Family.weights`; models/glm/weights.py is one). Where a configuration is at
hand the family of that configuration answers; a name alone is looked up in every table.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.family import FAMILIES, module_of
from mindformers_glm.models.interface import NetworkConfig, NetworkParts


@cache
def tables() -> tuple[ModuleType, ...]:
    """The table of each family, once."""
    return tuple(module_of(place) for place in dict.fromkeys(family.weights for family in FAMILIES))


def rows() -> tuple[Any, ...]:
    """Every weight of every table."""
    return tuple(row for table in tables() for row in table.WEIGHTS)


def weight(name: str, names: str = "ours") -> Any | None:
    """The row that a name with its layer number belongs to; None where no family has it."""
    return next((row for table in tables() if (row := table.weight(name, names)) is not None), None)


def rename(name: str, source: str, target: str) -> str:
    """The same weight's name in another column of its table.

    Raises:
        CheckpointError: no family has such a weight.
    """
    table = next((table for table in tables() if table.weight(name, source) is not None), None)
    if table is None:
        fault = f"no weight of the GLM family has this name (looked up as {source!r})"
        raise CheckpointError(name, fault, "Is it another model's file?")
    return table.rename(name, source, target)


def joins(name: str) -> str | None:
    """What a weight, its bias or its LoRA joins: "qkv" (query, key, value), "mlp" (gate and up), None for others."""
    return next((joined for table in tables() if (joined := table.joins(name)) is not None), None)


def is_ignored(name: str) -> bool:
    """True for entries of a file that the network computes itself."""
    return any(table.is_ignored(name) for table in tables())


def is_head(name: str) -> bool:
    """True for the output layer's weight."""
    return any(name == table.HEAD for table in tables())


def is_table(name: str) -> bool:
    """True for the table of the token embedding."""
    return any(name == table.TABLE for table in tables())


def is_tied(name: str, config: NetworkConfig) -> bool:
    """True for an output layer that is the table of the token embedding; files may hold both."""
    return of(config).is_tied(name, config)


def tied(config: NetworkConfig) -> dict[str, str]:
    """Weights that are the same parameter as another: name -> the one that stands in files. Empty where none is."""
    return of(config).tied(config)


def expected_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of every weight that a network of this configuration has, without adapters."""
    return of(config).expected_shapes(config)


def expected_types(config: NetworkConfig) -> dict[str, str]:
    """Our name -> type of the same weights, as a network holds them."""
    return _description(config).expected_types(config)


def parts(config: NetworkConfig) -> NetworkParts:
    """The paths of a network's parts, where NetworkParts speaks of Cells: a weight is `path.weight`."""
    return _description(config).parts(config)


def rotary(config: NetworkConfig) -> np.ndarray:
    """The table of positions of a network, (seq_length, 2, kv_channels) float32."""
    return _description(config).rotary(config)


def bits_of(name: str, config: NetworkConfig) -> int:
    """Bits of the integers that a weight is held as; 0: floats."""
    row = weight(name)
    table = of(config)
    return table.bits_of(row.ours, config) if row is not None and (row.is_matrix or row.ours == table.TABLE) else 0


def qkv_parts(config: NetworkConfig) -> list[int]:
    """Rows of query, key and value in the joined projection; one block where heads are interleaved."""
    return of(config).qkv_parts(config)


def megatron_name(name: str, layer: int | None = None) -> str:
    """The name in Megatron-core's network, with `layer` in the place of its own number where it is given.

    Raises:
        CheckpointError: Megatron's network has no such weight.
    """
    table = next((table for table in tables() if table.weight(name) is not None), tables()[0])
    return table.megatron_name(name, layer)


def gguf_name(ours: str) -> str:
    """The name of one of our weights in a GGUF file.

    Raises:
        CheckpointError: no family says one.
    """
    found = next((told for table in tables() if (told := table.gguf_name(ours))), None)
    if found is None:
        raise CheckpointError(ours, "GGUF files have no such weight", "Convert to another form.")
    return found


def from_gguf(name: str, *, is_split: bool) -> str | None:
    """The official name of a weight in a GGUF file, or transformers' own where it keeps q, k and v apart."""
    return next((told for table in tables() if (told := table.from_gguf(name, is_split=is_split))), None)


def of(config: NetworkConfig) -> ModuleType:
    """The table of a configuration's family."""
    return module_of(FAMILIES.of(config).weights)


def is_described(config: NetworkConfig) -> bool:
    """Whether its family tells `parts`, `rotary` and `expected_types`: then no network need be built to know them."""
    return FAMILIES.of(config).described is not None


def _description(config: NetworkConfig) -> ModuleType:
    place = FAMILIES.of(config).described
    assert place is not None
    return module_of(place)
