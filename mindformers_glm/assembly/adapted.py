"""Adapters beside each other on one base: each has its own small matrices, and the base's weights are there once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from mindformers_glm.adapters.lora import DELTA
from mindformers_glm.assembly.network import changed, empty_network, read_adapter
from mindformers_glm.assembly.whole_numbers import is_whole
from mindformers_glm.checkpoint.formats.dtypes import FLOATS, convert, typed
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.names import is_adapter
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError
from mindformers_glm.log import log_once

_COMPARED = {"Float32": "float32", "Float16": "float16"}  # types of parameters that are compared, by MindSpore's name
_SAMPLES = 64  # rows of a tensor


def adapted(base: nn.Cell, adapter: str | Path, *, lora_alpha: float | None = None) -> nn.Cell:
    """A network with the adapter, over the very parameters of `base`: nothing of them is copied.

    `adapter` is a PEFT folder, a run's folder or a checkpoint; `lora_alpha` the alpha of a LoRA where no file tells it.
    The base may be of integers. A LoRA of its own stays its own: the adapter stands on the weights beneath it.

    Raises:
        UserError: it is no adapter, was trained with other weights, or does not fit this base.
    """
    pet = dict(base.config.pet_config or {})
    if pet and (pet.get("pet_type") != "lora" or pet.get("use_dora")):
        fix = "Serve the base without one, or merge it"
        raise CheckpointError(str(adapter), "the base has a prefix or a LoRA with magnitudes already", fix)
    if is_whole(base.config):  # its weights are no floats, and no layer with an adapter holds them
        fix = "Serve it without adapters, or the base of floats or of 8 or 4 bits"
        raise CheckpointError(str(adapter), f"the base is {base.config.quantization_scheme}", fix)
    source, pet_config = read_adapter(resolve(str(adapter)), base.config, lora_alpha)
    _check_base(base, source)
    network = over(base, pet_config)
    load_into(network, source if source.kind == "adapter" else _alone(source))
    return network


def over(base: nn.Cell, pet_config: Mapping[str, Any]) -> nn.Cell:
    """A network with such an adapter, whose values are still missing, over the very parameters of `base`."""
    network = empty_network(changed(base.config, {"pet_config": dict(pet_config)}))
    own = dict(base.parameters_and_names())
    for place, cell in network.cells_and_names():
        for parameter in cell.get_parameters(expand=False):
            name = parameter.name.rpartition(".")[2]
            path = f"{place}.{name}" if place else name
            if path in own and DELTA not in path:
                setattr(cell, name, own[path])
    return network


def _alone(source: WeightSource) -> dict[str, np.ndarray]:
    """The adapter's arrays by our names, without the weights beside them."""
    return {name: source.read(name) for name in source.names if is_adapter(name)}


def _check_base(base: nn.Cell, source: WeightSource) -> None:
    """Passes when weights beside an adapter are those of the base, as far as some of their rows tell.

    Raises:
        CheckpointError: they are others, which would be lost.
    """
    own = {parameter.name: parameter for parameter in base.get_parameters()}
    for name in source.names:
        parameter, dtype = own.get(name), source.dtype(name)
        if is_adapter(name) or parameter is None or dtype not in FLOATS:
            continue
        kind = _COMPARED.get(str(parameter.dtype))
        if kind is None:
            log_once(f"{source.path}: weights beside the adapter are not compared with a base of {parameter.dtype}")
            continue
        ours, rows = parameter.asnumpy(), source.shape(name)[0] if source.shape(name) else 1
        if ours.shape != tuple(source.shape(name)):
            continue  # told by name when it is loaded
        for first, end in _samples(rows) if ours.ndim > 1 else [(0, rows)]:
            theirs = typed(np.concatenate([block.copy() for block in source.blocks(name, first, end)]), dtype)
            own_rows = ours[first:end].reshape(-1)
            if not np.array_equal(convert(theirs, kind), own_rows) and not np.array_equal(
                theirs, convert(own_rows, dtype)
            ):
                fault = f"{name} beside the adapter differs from the base's"
                fix = "Name the base that it was trained on; what trained more than an adapter is a model of its own"
                raise CheckpointError(str(source.path), fault, fix)


def _samples(rows: int) -> list[tuple[int, int]]:
    """Rows to compare: all of a few, and some spread over many."""
    return [(int(row), int(row) + 1) for row in np.unique(np.linspace(0, rows - 1, _SAMPLES).astype(int))]
