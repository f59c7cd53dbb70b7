"""Weights and activations of 8 bits: the rules, the eight files of the ATB guide, and their division among ranks.

Source: ATB's chatglm2/6b export_quant_weight.py and process_weights.py, ModelSlim's files; see docs/migration.md.
Shapes: N outputs, K inputs of a linear layer. All rounding is half to even, arithmetic float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.checkpoint.formats import ascend_v1
from mindformers_glm.checkpoint.formats.torch_npy import read_table, write_table
from mindformers_glm.checkpoint.load.source import files_in
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import read_json, user_path, write_text
from mindformers_glm.models.naming import joins, weight

FILES = (
    *("deq_scale", "fp_bias", "input_offset", "input_scale"),
    *("quant_bias", "quant_weight", "weight_offset", "weight_scale"),
)
DESCRIPTION = "quant_model_description.json"  # beside weights in the AscendV1 form
OUTLIER_SHARE = 0.011  # of the sparse form: so many numbers of a layer keep 8 bits
_NEEDED = ("deq_scale", "fp_bias", "input_offset", "input_scale", "quant_weight")


class Layer(NamedTuple):
    """One linear layer. Fields are the files' names and types: float32, but int8 (N, K) and int32 (N)."""

    deq_scale: np.ndarray
    fp_bias: np.ndarray
    input_offset: np.ndarray
    input_scale: np.ndarray
    quant_bias: np.ndarray
    quant_weight: np.ndarray
    weight_offset: np.ndarray
    weight_scale: np.ndarray


def quantized(weight: np.ndarray, bias: np.ndarray | None, low: float, high: float, *, sparse: bool = False) -> Layer:
    """A layer of a float weight (N, K), for inputs between `low` and `high`.

    input_scale = (max(high, 0) - min(low, 0)) / 255, input_offset = round(-min(low, 0) / input_scale) - 128,
    weight_scale = max|row| / 127. With `sparse` all but the largest 1.1 % of the numbers fit into 4 bits: the scale is
    that of the others over 7; it is this project's own choice, ModelSlim's is not public.
    """
    wide = np.asarray(weight, np.float32)
    rows = len(wide)
    fp_bias = np.zeros(rows, np.float32) if bias is None else np.asarray(bias, np.float32)
    below, above = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    input_scale = np.float32((above - below) / np.float32(255)) or np.float32(1)
    input_offset = np.float32(np.rint(-below / input_scale) - 128)
    scale = _sparse_scale(wide) if sparse else np.abs(wide).max(1) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    whole = np.clip(np.rint(wide / scale[:, None]), -127, 127).astype(np.int8)
    deq_scale = (input_scale * scale).astype(np.float32)
    sums = whole.sum(1, dtype=np.int64).astype(np.float32)
    quant_bias = np.rint(fp_bias / deq_scale - sums * input_offset).astype(np.int32)
    return Layer(
        deq_scale,
        fp_bias,
        np.array([input_offset], np.float32),
        np.array([input_scale], np.float32),
        quant_bias,
        whole,
        np.zeros((rows, 1), np.float32),
        scale[:, None],
    )


def _sparse_scale(weight: np.ndarray) -> np.ndarray:
    """Scales (N) by which the numbers of a row that are no outliers of the layer stay within -7 to 7."""
    sizes = np.abs(weight)
    border = np.quantile(sizes, 1 - OUTLIER_SHARE)
    usual = np.where(sizes <= border, sizes, 0).max(1)
    return np.maximum(usual / np.float32(7), sizes.max(1) / np.float32(127)).astype(np.float32)


def output(x: np.ndarray, layer: Layer) -> np.ndarray:
    """The layer's outputs (T, N) for inputs x (T, K), as the device computes them: whole numbers, one scale at the end.

    x_q = clip(round(x / input_scale + input_offset), -128, 127); y = (x_q W' + quant_bias) * deq_scale.
    """
    whole = np.clip(np.rint(x.astype(np.float32) / layer.input_scale + layer.input_offset), -128, 127)
    sums = (whole.astype(np.float64) @ layer.quant_weight.T.astype(np.float64)).astype(np.int64) + layer.quant_bias
    return sums.astype(np.float32) * layer.deq_scale


def write_layers(folder: str | Path, layers: Mapping[str, Layer], config: Mapping[str, Any]) -> Path:
    """Writes the eight files, and config.json with `float_layers_id` and `world_size`; returns the folder."""
    place = user_path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        write_table(place / f"{name}.npy", {key: getattr(layer, name) for key, layer in layers.items()})
    write_text(place / "config.json", json.dumps(dict(config), indent=1) + "\n")
    return place


def read_layers(folder: str | Path) -> dict[str, Layer]:
    """The layers of a folder of eight files; those that inference does not need may be missing and are worked out.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not fit together.
    """
    place = user_path(folder)
    if (place / DESCRIPTION).is_file() or list(place.glob("quant_model_weight_w8a8*.safetensors")):
        return _ascend_v1(place)
    missing = [name for name in _NEEDED if not (place / f"{name}.npy").is_file()]
    if missing:
        fix = "Name the folder that tools/export_quant_weight.py wrote."
        raise CheckpointError(str(place), f"it has no {missing[0]}.npy", fix)
    tables = {name: read_table(place / f"{name}.npy") for name in FILES if (place / f"{name}.npy").is_file()}
    names = list(tables["quant_weight"])
    for file, table in tables.items():
        if set(table) != set(names):
            raise CheckpointError(str(place / f"{file}.npy"), "it names other layers than quant_weight.npy", _AGAIN)
    return {name: _checked(place, name, {file: table[name] for file, table in tables.items()}) for name in names}


_AGAIN = "Write the files again with tools/export_quant_weight.py."


def _ascend_v1(place: Path) -> dict[str, Layer]:
    """The layers of a folder in ModelSlim's AscendV1 form."""
    files = files_in(place)
    places = {name: file for file in files for name in file.entries}
    found: dict[str, Layer] = {}
    for name in ascend_v1.w8a8_layers(files):
        parts = {part: ascend_v1.read_part(places, name, part) for part in ("weight", *ascend_v1.PARTS)}
        bias = f"{name}.bias" in places
        given = {part: parts[part] for part in ("deq_scale", "input_scale", "input_offset", "quant_bias")}
        rows = len(parts["weight"])
        fp_bias = ascend_v1.read_part(places, name, "bias") if bias else np.zeros(rows, np.float32)
        found[name] = _checked(place, name, {**given, "fp_bias": fp_bias, "quant_weight": parts["weight"]})
    if not found:
        raise CheckpointError(str(place), "it has no W8A8 layers", "Name the folder that ModelSlim wrote.")
    return found


def _checked(place: Path, name: str, given: dict[str, np.ndarray]) -> Layer:
    weight = given["quant_weight"]
    if weight.dtype != np.int8 or weight.ndim != 2:
        raise CheckpointError(
            str(place), f"{name} has a weight of {weight.dtype} {weight.shape}, not int8 (N, K)", _AGAIN
        )
    rows = len(weight)
    for file, size in (("deq_scale", rows), ("fp_bias", rows), ("input_scale", 1), ("input_offset", 1)):
        if given[file].size != size:
            fault = f"{file} of {name} has {given[file].size} numbers for {rows} rows"
            raise CheckpointError(str(place), fault, _AGAIN)
    values = {file: given[file].reshape(-1).astype(np.float32) for file in _NEEDED if file != "quant_weight"}
    usable = np.isfinite(values["deq_scale"]).all() and (values["deq_scale"] > 0).all()
    if not usable or not float(values["input_scale"][0]) > 0 or not np.isfinite(values["input_offset"]).all():
        raise CheckpointError(str(place), f"the scales of {name} are not positive numbers", _AGAIN)
    bias = given.get("quant_bias")
    if bias is None:
        sums = weight.sum(1, dtype=np.int64).astype(np.float32)
        bias = np.rint(values["fp_bias"] / values["deq_scale"] - sums * values["input_offset"]).astype(np.int32)
    scale = given.get("weight_scale", values["deq_scale"] / values["input_scale"]).reshape(rows, 1)
    return Layer(
        quant_bias=bias.reshape(-1),
        quant_weight=weight,
        weight_offset=np.zeros((rows, 1), np.float32),
        weight_scale=scale.astype(np.float32),
        **values,
    )


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


def description(tensors: Mapping[str, np.ndarray], quantized_names: Iterable[str]) -> dict[str, str]:
    """quant_model_description.json of the AscendV1 form: W8A8 or FLOAT of every tensor."""
    layers = set(quantized_names)
    kinds = ("weight", "input_scale", "input_offset", "quant_bias", "deq_scale")
    told = {"model_quant_type": "W8A8"}
    for name in tensors:
        layer, _, leaf = name.rpartition(".")
        told[name] = "W8A8" if layer in layers and leaf in kinds else "FLOAT"
    return told


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a folder."""
    return read_json(user_path(folder) / "config.json")
