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
    """Passes when weights beside an adapter are those of the base, as far as their first rows tell.

    Raises:
        CheckpointError: they are others, which would be lost.
    """
    own = {parameter.name: parameter for parameter in base.get_parameters()}
    for name in source.names:
        parameter, dtype = own.get(name), source.dtype(name)
        if is_adapter(name) or parameter is None or dtype not in FLOATS or not str(parameter.dtype).endswith("loat32"):
            continue
        rows = 1 if len(source.shape(name)) > 1 else source.shape(name)[0]
        theirs = typed(np.concatenate([block.copy() for block in source.blocks(name, 0, rows)]), dtype)
        ours = parameter.asnumpy()[:rows].reshape(-1)
        if not np.array_equal(convert(theirs, "float32"), ours) and not np.array_equal(theirs, convert(ours, dtype)):
            fault = f"{name} beside the adapter differs from the base's"
            fix = "Name the base that it was trained on; what trained more than an adapter is a model of its own"
            raise CheckpointError(str(source.path), fault, fix)
