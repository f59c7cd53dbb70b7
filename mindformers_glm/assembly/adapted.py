"""Adapters beside each other on one base: each has its own small matrices, and the base's weights are there once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm.adapters.lora import DELTA
from mindformers_glm.assembly.adapter_base import adapter_of, alone, check_base
from mindformers_glm.assembly.configuration import changed
from mindformers_glm.assembly.network import empty_network
from mindformers_glm.checkpoint.load import load_into


def adapted(base: nn.Cell, adapter: str | Path, *, lora_alpha: float | None = None) -> nn.Cell:
    """A network with the adapter, over the very parameters of `base`: nothing of them is copied.

    `adapter` is a PEFT folder, a run's folder or a checkpoint; `lora_alpha` the alpha of a LoRA where no file tells it.
    The base may be of integers. A LoRA of its own stays its own: the adapter stands on the weights beneath it.

    Raises:
        UserError: it is no adapter, was trained with other weights, or does not fit this base.
    """
    source, pet_config = adapter_of(adapter, base.config, lora_alpha)
    check_base({parameter.name: parameter for parameter in base.get_parameters()}, source)
    network = over(base, pet_config)
    load_into(network, source if source.kind == "adapter" else alone(source))
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
