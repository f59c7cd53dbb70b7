"""Adapters beside each other on one base: each has its own small matrices, and the base's weights are there once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm.adapters.lora import DELTA
from mindformers_glm.assembly.network import changed, empty_network, read_adapter
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.errors import CheckpointError


def adapted(base: nn.Cell, adapter: str | Path, *, lora_alpha: float | None = None) -> nn.Cell:
    """A network with the adapter, over the very parameters of `base`: nothing of them is copied.

    `adapter` is a PEFT folder, a run's folder or a checkpoint; `lora_alpha` the alpha of a LoRA where no file tells it.

    The base may be of integers.

    Raises:
        UserError: it is no adapter, holds other weights too, or does not fit this base.
    """
    if base.config.pet_config:
        raise CheckpointError(
            str(adapter), "the base has an adapter already", "Serve the base without one, or merge it"
        )
    source, pet_config = read_adapter(resolve(str(adapter)), base.config, lora_alpha)
    if source.kind != "adapter":  # they would go into the base, which others use
        fix = "Take the adapter out of it: mindformers-glm convert --to peft."
        raise CheckpointError(str(adapter), "it holds weights of the network beside the adapter", fix)
    network = over(base, pet_config)
    load_into(network, source)
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
