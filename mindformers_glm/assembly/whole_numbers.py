"""W8A8 layers in the place of a network's linear layers, before its other weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from mindformers_glm.assembly.configuration import is_whole
from mindformers_glm.assembly.whole_layers import folder_of, layers_of
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.linear import Linear
from mindformers_glm.models.naming import weight
from mindformers_glm.models.w8a8 import make_w8a8
from mindformers_glm.ops.w8a8 import Layer
from mindformers_glm.parallel.mesh import SINGLE, Mesh


def put_whole_numbers(
    model: nn.Cell,
    config: NetworkConfig,
    weights: WeightSource | Mapping[str, np.ndarray],
    place: str | Path,
    *,
    mesh: Mesh = SINGLE,
) -> None:
    """Puts the W8A8 layers of `quantization_weights`, or of the folder `place`, or made of floats, into a network.

    `config` is that of the whole network, `model` the part of this rank. Nothing is done where no scheme asks for it.

    Raises:
        ConfigError: the scheme needs inputs that were seen, and no such layers are there.
        CheckpointError: the layers are not those of this network.
    """
    if not is_whole(config):
        return
    layers, folder = layers_of(config, weights, place, _plain_layers(model)), folder_of(config, place)
    ranks = mesh.tensor
    division = FAMILIES.of(config).divided(config, ranks.size)
    make_w8a8(model, layers, place=str(folder), part=lambda name, layer: part_of(name, layer, division, ranks.rank))


def part_of(name: str, layer: Layer, division: Any, rank: int) -> Layer:
    """What a tensor rank holds of a layer: where inputs are divided, what is added to sums is the first rank's."""
    if division.size == 1:
        return layer
    whole = division.cut(f"{name}.weight", layer.quant_weight, rank)
    row = weight(f"{name}.weight")
    if row is not None and row.shard_axis == 1:
        if rank > 0:
            zeros = {key: np.zeros_like(getattr(layer, key)) for key in ("fp_bias", "quant_bias")}
            layer = layer._replace(**zeros)
        return layer._replace(quant_weight=whole)
    rows = {key: getattr(layer, key) for key in ("deq_scale", "fp_bias", "quant_bias", "weight_offset", "weight_scale")}
    return layer._replace(
        quant_weight=whole, **{key: division.cut(f"{name}.bias", value, rank) for key, value in rows.items()}
    )


def _plain_layers(model: nn.Cell) -> list[str]:
    """The linear layers of a network without the output layer, by the names of their weights."""
    head = model.parts.head
    cells = [cell for _, cell in model.cells_and_names() if type(cell) is Linear]
    return [cell.weight.name.removesuffix(".weight") for cell in cells if cell is not getattr(head, "layer", head)]
