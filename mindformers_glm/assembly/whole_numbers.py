"""W8A8 layers in the place of a network's linear layers, before its other weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from mindformers_glm.assembly.pieces import floats
from mindformers_glm.checkpoint.load.modelslim import is_w8a8, read_layers
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.linear import Linear
from mindformers_glm.models.naming import weight
from mindformers_glm.models.w8a8 import make_w8a8
from mindformers_glm.ops.w8a8 import Layer
from mindformers_glm.parallel.mesh import SINGLE, Mesh
from mindformers_glm.registry import SCHEMES


def is_whole(config: NetworkConfig) -> bool:
    """True for a network whose scheme puts other layers in the place of linear ones."""
    return config.quantization_scheme is not None and not config.quantization_bit


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
        ConfigError: the scheme needs inputs that were seen, and no such layers are there; or several tensor ranks.
        CheckpointError: the layers are not those of this network.
    """
    if not is_whole(config):
        return
    if mesh.tensor.size > 1:
        raise ConfigError("--tp_size", mesh.tensor.size, "W8A8 weights run in one process here: use 1.")
    folder = user_path(config.quantization_weights or place)
    folder = folder if folder.is_dir() else folder.parent
    there = config.quantization_weights or is_w8a8(folder)
    layers = read_layers(folder) if there else _made(model, config, weights)
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


def _made(model: nn.Cell, config: NetworkConfig, weights: WeightSource | Mapping[str, np.ndarray]) -> dict[str, Layer]:
    scheme, head = SCHEMES.get(config.quantization_scheme)(), model.parts.head
    if scheme.needs:
        scheme.quantise(np.zeros((1, 1), np.float32), group_size=0)  # says what is missing
    names = {id(cell): cell.weight.name for _, cell in model.cells_and_names() if type(cell) is Linear}
    head_name = names.get(id(getattr(head, "layer", head)))
    layers = {}
    for name in names.values():
        if name == head_name:
            continue
        layer = name.removesuffix(".weight")
        bias = f"{layer}.bias"
        held = _floats(weights, bias).reshape(-1) if bias in _names(weights) else None
        layers[layer] = scheme.quantise(_floats(weights, name), group_size=0, bias=held)
    return layers


def _names(weights: WeightSource | Mapping[str, np.ndarray]) -> list[str]:
    return weights.names if isinstance(weights, WeightSource) else list(weights)


def _floats(weights: WeightSource | Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return floats(weights, name) if isinstance(weights, WeightSource) else np.asarray(weights[name], np.float32)
