"""W8A8 layers of ModelSlim's files: the eight .npy of the ATB guide, or the AscendV1 form; see ops/w8a8.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindformers_glm.checkpoint.formats import ascend_v1
from mindformers_glm.checkpoint.formats.torch_npy import read_table
from mindformers_glm.checkpoint.load.source import files_in
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import user_path
from mindformers_glm.ops.w8a8 import Layer

FILES = (
    *("deq_scale", "fp_bias", "input_offset", "input_scale"),
    *("quant_bias", "quant_weight", "weight_offset", "weight_scale"),
)
_NEEDED = ("deq_scale", "fp_bias", "input_offset", "input_scale", "quant_weight")
_OF_ROWS = ("deq_scale", "fp_bias", "quant_bias", "weight_scale")  # a number for each row


def is_w8a8(folder: str | Path) -> bool:
    """True for a folder of the eight files, or one whose name of weights says that it is of the AscendV1 form."""
    place = user_path(folder)
    return (place / "quant_weight.npy").is_file() or bool(list(place.glob("quant_model_weight_w8a8*.safetensors")))


def read_layers(folder: str | Path) -> dict[str, Layer]:
    """The layers of a folder of eight files; those that inference does not need may be missing and are worked out.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not fit together.
    """
    place = user_path(folder)
    if (place / ascend_v1.DESCRIPTION).is_file() or list(place.glob("quant_model_weight_w8a8*.safetensors")):
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
    sizes = {**dict.fromkeys(_OF_ROWS, rows), "input_scale": 1, "input_offset": 1}
    for file, size in sizes.items():
        if file in given and given[file].size != size:
            fault = f"{file} of {name} has {given[file].size} numbers for {rows} rows"
            raise CheckpointError(str(place), fault, _AGAIN)
    if "quant_bias" in given and given["quant_bias"].dtype != np.int32:
        raise CheckpointError(str(place), f"quant_bias of {name} is {given['quant_bias'].dtype}, not int32", _AGAIN)
    values = {file: given[file].reshape(-1).astype(np.float32) for file in _NEEDED if file != "quant_weight"}
    usable = all(np.isfinite(values[file]).all() for file in ("deq_scale", "fp_bias"))
    usable = usable and bool((values["deq_scale"] > 0).all())
    if not usable or not float(values["input_scale"][0]) > 0 or not np.isfinite(values["input_offset"]).all():
        raise CheckpointError(str(place), f"the scales of {name} are not positive numbers, or its biases none", _AGAIN)
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
