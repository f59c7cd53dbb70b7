"""ModelSlim's AscendV1 form: W8A8 linear layers in safetensors, as the floats that their weights stand for.

Of a layer NAME there are weight int8 (N, K), input_scale and input_offset (one number), quant_bias int32 (N) and
deq_scale (N): int64 that holds the bits of a float32, or float32. The weight is q * deq_scale / input_scale; NAME.bias
stays in the file as a float, and quant_bias holds it too. Source: docs of msModelSlim, its GLM example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import convert_bits
from mindformers_glm.checkpoint.formats.tensor_file import Entry, TensorFile
from mindformers_glm.errors import CheckpointError

PARTS = ("input_scale", "input_offset", "quant_bias", "deq_scale")
DESCRIPTION = "quant_model_description.json"  # beside the weights: W8A8 or FLOAT of every tensor
WEIGHTS = "quant_model_weight_w8a8"  # how names of its files begin


def w8a8_layers(files: Sequence[TensorFile]) -> list[str]:
    """Names of the W8A8 layers, without `.weight`; none in other files.

    Raises:
        CheckpointError: a layer has some of its parts and not all, or of other shapes.
    """
    entries = {name: entry for file in files for name, entry in file.entries.items()}
    layers = sorted(name.removesuffix(".deq_scale") for name in entries if name.endswith(".deq_scale"))
    for layer in layers:
        weight = entries.get(f"{layer}.weight")
        missing = [part for part in PARTS if f"{layer}.{part}" not in entries]
        if weight is None or missing:
            fault = f"{layer} is W8A8 and has no {missing[0] if missing else 'weight'}"
            raise CheckpointError(str(files[0].path), fault, "Copy the folder again.")
        scales = entries[f"{layer}.deq_scale"]
        single = all(math.prod(entries[f"{layer}.{part}"].shape) == 1 for part in PARTS[:2])
        if weight.dtype != "int8" or len(weight.shape) != 2 or scales.shape != weight.shape[:1] or not single:
            fault = f"the parts of {layer} do not fit: weight {weight.dtype} {weight.shape}, deq_scale {scales.shape}"
            raise CheckpointError(str(files[0].path), fault, "Copy the folder again.")
    return layers


def as_floats(files: Sequence[TensorFile], layers: Sequence[str]) -> list[TensorFile]:
    """The files with float32 weights in the place of integers and their parts; each is computed when it is read."""
    dropped = {f"{layer}.{part}" for layer in layers for part in PARTS}
    places = {name: file for file in files for name in file.entries}
    made = []
    for file in files:
        entries, computed = {}, dict(file.computed)
        for name, entry in file.entries.items():
            if name in dropped:
                continue
            layer = name.removesuffix(".weight")
            if f"{layer}.deq_scale" in places and name.endswith(".weight"):
                entry = Entry(name, "float32", entry.shape, (), strides=())
                computed[name] = partial(_dequantised, file, places, layer)
            entries[name] = entry
        made.append(TensorFile(file.path, file.format, entries, file.metadata, computed))
    return made


def read_part(places: dict[str, TensorFile], layer: str, part: str) -> np.ndarray:
    """A part of a layer in float32 (quant_bias in int32, weight in int8), flat but for the weight.

    The weight is mapped from its file where that is possible, and cannot be written then.
    """
    name = f"{layer}.{part}"
    file = places[name]
    mapped = file.mapped_bits(name) if part == "weight" else None
    bits, dtype = file.read_bits(name) if mapped is None else mapped, file.entries[name].dtype
    if part in ("weight", "quant_bias"):
        return bits
    if part == "deq_scale" and dtype == "int64":
        return bits.astype(np.int32).view(np.float32)
    return convert_bits(bits.reshape(-1), dtype, "float32").view(np.float32)


def _dequantised(file: TensorFile, places: dict[str, TensorFile], layer: str, start: int, stop: int) -> np.ndarray:
    scale = read_part(places, layer, "deq_scale")[start:stop] / read_part(places, layer, "input_scale")
    return file.read_rows(f"{layer}.weight", start, stop).astype(np.float32) * scale[:, None]
