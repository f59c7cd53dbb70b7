"""Adapters beside each other on one base: each has its own small matrices, and the base's weights are there once."""

from __future__ import annotations

from pathlib import Path

from mindspore import nn

from mindformers_glm.adapters.lora import DELTA
from mindformers_glm.assembly.network import changed, empty_network, read_adapter
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.errors import CheckpointError


def adapted(base: nn.Cell, adapter: str | Path, *, lora_alpha: float | None = None) -> nn.Cell:
    """A network with the adapter, over the very parameters of `base`: nothing of them is copied.

    `adapter` is a PEFT folder, a run's folder or a checkpoint; `lora_alpha` the alpha of a LoRA where no file tells it.

    Raises:
        UserError: it is no adapter, or does not fit this base.
    """
    if base.config.pet_config:
        raise CheckpointError(
            str(adapter), "the base has an adapter already", "Serve the base without one, or merge it"
        )
    if base.config.quantization_bit:
        raise CheckpointError(str(adapter), "an adapter needs the base's own weights", "Leave out --quantization_bit")
    source, pet_config = read_adapter(resolve(str(adapter)), base.config, lora_alpha)
    network = empty_network(changed(base.config, {"pet_config": pet_config}))
    own = dict(base.parameters_and_names())
    for place, cell in network.cells_and_names():
        for parameter in cell.get_parameters(expand=False):
            name = parameter.name.rpartition(".")[2]
            path = f"{place}.{name}" if place else name
            if path in own and DELTA not in path:
                setattr(cell, name, own[path])
    load_into(network, source)
    return network
