"""An adapter for a base that is loaded: whether it was trained on these weights, and its own tensors. No MindSpore."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.assembly.configuration import is_whole, read_adapter
from mindformers_glm.checkpoint.formats.dtypes import FLOATS, convert_bits
from mindformers_glm.checkpoint.load.names import is_adapter
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError
from mindformers_glm.log import log_once
from mindformers_glm.models.described import Held, kept
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.panels import to_rows

_COMPARED = ("float32", "float16", "bfloat16")  # types of weights that are compared
_SAMPLES = 64  # rows of a tensor


def adapter_of(
    adapter: str | Path, base: NetworkConfig, lora_alpha: float | None = None
) -> tuple[WeightSource, dict[str, Any]]:
    """An adapter's weights, not yet read, and the `pet_config` of the network over a base of this configuration.

    Raises:
        UserError: it is no adapter, or such a base can have none beside it.
    """
    pet = dict(base.pet_config or {})
    if pet and (pet.get("pet_type") != "lora" or pet.get("use_dora")):
        fix = "Serve the base without one, or merge it"
        raise CheckpointError(str(adapter), "the base has a prefix or a LoRA with magnitudes already", fix)
    if is_whole(base):  # its weights are no floats, and no layer with an adapter holds them
        fix = "Serve it without adapters, or the base of floats or of 8 or 4 bits"
        raise CheckpointError(str(adapter), f"the base is {base.quantization_scheme}", fix)
    return read_adapter(resolve(str(adapter)), base, lora_alpha)


def alone(source: WeightSource) -> dict[str, np.ndarray]:
    """The adapter's arrays by our names, without the weights beside them."""
    return {name: source.read(name) for name in source.names if is_adapter(name)}


def check_base(own: Mapping[str, Held], source: WeightSource) -> None:
    """Passes when weights beside an adapter are those of the base, as far as some of their rows tell.

    Raises:
        CheckpointError: they are others, which would be lost.
    """
    for name in source.names:
        held, dtype = own.get(name), source.dtype(name)
        if is_adapter(name) or held is None or dtype not in FLOATS:
            continue
        kind = str(held.dtype).lower()
        if kind not in _COMPARED:
            log_once(f"{source.path}: weights beside the adapter are not compared with a base of {held.dtype}")
            continue
        (ours, is_in_panels), rows = kept(held), source.shape(name)[0] if source.shape(name) else 1
        if is_in_panels:
            ours = to_rows(ours)
        if kind == "bfloat16":
            ours = ours.view(np.uint16)
        if ours.shape != tuple(source.shape(name)):
            continue  # told by name when it is loaded
        for first, end in _samples(rows) if ours.ndim > 1 else [(0, rows)]:
            theirs = np.concatenate([block.copy() for block in source.blocks(name, first, end)])
            own_rows = ours[first:end].reshape(-1)
            if not _equal(convert_bits(theirs, dtype, kind), own_rows, kind) and not _equal(
                theirs, convert_bits(own_rows, kind, dtype), dtype
            ):
                fault = f"{name} beside the adapter differs from the base's"
                fix = "Name the base that it was trained on; what trained more than an adapter is a model of its own"
                raise CheckpointError(str(source.path), fault, fix)


def _equal(one: np.ndarray, other: np.ndarray, dtype: str) -> bool:
    """Whether numbers given by their bits are the same."""
    if dtype == "bfloat16":
        one, other = (convert_bits(bits, dtype, "float32") for bits in (one, other))
    return np.array_equal(one, other)


def _samples(rows: int) -> list[tuple[int, int]]:
    """Rows to compare: all of a few, and some spread over many."""
    return [(int(row), int(row) + 1) for row in np.unique(np.linspace(0, rows - 1, _SAMPLES).astype(int))]
