"""The eight files of the ATB guide on the way out, and what each rank of it holds.

Source: ATB's chatglm2/6b export_quant_weight.py and process_weights.py, ModelSlim's files; see docs/migration.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.checkpoint.formats.torch_npy import write_table
from mindformers_glm.checkpoint.load.modelslim import FILES, read_layers
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path, write_text
from mindformers_glm.models.described import LINEAR
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import joins, parts, weight
from mindformers_glm.ops.w8a8 import Layer, output, quantized

__all__ = ["FILES", "Layer", "output", "quantized", "read_layers", "write_divided", "write_layers"]


def in_order(layers: Mapping[str, Layer], config: NetworkConfig) -> dict[str, Layer]:
    """The layers in the order of the network."""
    names = (getattr(block, name) for block in parts(config).blocks for name in LINEAR)
    return {name: layers[name] for name in names if name in layers}


def write_layers(folder: str | Path, layers: Mapping[str, Layer], config: Mapping[str, Any]) -> Path:
    """Writes the eight files, and config.json with `float_layers_id` and `world_size`; returns the folder."""
    place = user_path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        write_table(place / f"{name}.npy", {key: getattr(layer, name) for key, layer in layers.items()})
    write_text(place / "config.json", json.dumps(dict(config), indent=1) + "\n")
    return place


def write_divided(folder: str | Path, *, heads: int, groups: int, kv_channels: int, size: int) -> Path:
    """FOLDER/tpN/{quant_weight,new_bias,new_deq_scale}R.npy for N ranks, as process_weights.py cuts them.

    new_bias is what the device adds to whole numbers, cut towards zero as there; new_deq_scale are the bits of the
    scale as int64.

    Raises:
        CheckpointError: the folder is there already, or a layer does not divide.
    """
    place = user_path(folder)
    target = place / f"tp{size}"
    if target.exists():
        raise CheckpointError(str(target), "it is there already", "Remove it, or name another --tp_size.")
    if heads % size:
        raise ConfigError("--tp_size", size, f"It must divide the {heads} heads.")
    layers = read_layers(place)
    target.mkdir(parents=True)
    for rank in range(size):
        parts = {name: _part(name, layer, rank, size, (heads, groups, kv_channels)) for name, layer in layers.items()}
        for place_, file in enumerate(("quant_weight", "new_bias", "new_deq_scale")):
            write_table(target / f"{file}{rank}.npy", {name: part[place_] for name, part in parts.items()})
    return target


def device_numbers(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """new_bias int32 (N) and new_deq_scale int64 (N) of a whole layer."""
    sums = layer.quant_weight.sum(1, dtype=np.int64).astype(np.float32)
    bias = (layer.fp_bias / layer.deq_scale - sums * layer.input_offset).astype(np.int32)
    return bias, layer.deq_scale.view(np.int32).astype(np.int64)


def _part(
    name: str, layer: Layer, rank: int, size: int, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bias, scale = device_numbers(layer)
    row = weight(f"{name}.weight")
    if row is None:
        raise CheckpointError(name, "no layer of this model has this name", "Is it another model's file?")
    if row.shard_axis == 1:  # inputs are divided; the bias is added once
        columns = np.array_split(np.arange(layer.quant_weight.shape[1]), size)[rank]
        return layer.quant_weight[:, columns], bias if rank == 0 else np.zeros_like(bias), scale
    rows = _qkv_rows(rank, size, *shape) if joins(f"{name}.weight") == "qkv" else _halves(len(bias), rank, size)
    return layer.quant_weight[rows], bias[rows], scale[rows]


def _qkv_rows(rank: int, size: int, heads: int, groups: int, width: int) -> np.ndarray:
    """Rows of query, key and value of a rank; with more ranks than groups, several have the same."""
    own = heads // size
    queries = np.arange(rank * own * width, (rank + 1) * own * width)
    cuts = min(size, groups)
    each, place = groups * width // cuts, rank * cuts // size
    keys = heads * width + np.arange(place * each, (place + 1) * each)
    return np.concatenate([queries, keys, keys + groups * width])


def _halves(count: int, rank: int, size: int) -> np.ndarray:
    """Rows of gate and up of a rank: pieces i and i + N of 2 N."""
    each = count // (2 * size)
    gate = np.arange(rank * each, (rank + 1) * each)
    return np.concatenate([gate, gate + count // 2])
