"""Official integer weights (chatglm2-6b-int4, quantize(4), quantize(8)) as the floats that they stand for.

`NAME.weight` is int8 (N, K), or (N, K/2) at 4 bits: byte j holds column 2j in its high half and 2j + 1 in its low half,
both in two's complement. `NAME.weight_scale` (N) is max|row| / (2^(bits - 1) - 1) in float16; the weight is q * scale,
which float32 holds exactly. Nothing but types and shapes tells such a file: a scale of one axis is theirs, one of two
axes (groups of columns) is ours. Source: quantization.py of the published models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import FLOATS, convert_bits
from mindformers_glm.checkpoint.formats.tensor_file import Entry, Rows, Scales, TensorFile
from mindformers_glm.errors import CheckpointError
from mindformers_glm.ops.quantized import BLOCK

_SCALE, _EMBEDDING = "_scale", ".word_embeddings.weight"


def official_bits(files: Sequence[TensorFile]) -> int:
    """4 or 8 where some weights are official integers, otherwise 0.

    Raises:
        CheckpointError: they are, and their packing cannot be told.
    """
    columns = {file.entries[name].shape[1] for file in files for name in _packed(file, files)}
    if not columns:
        return 0
    embedding = [entry for file in files for entry in file.entries.values() if entry.name.endswith(_EMBEDDING)]
    hidden = embedding[0].shape[-1] if embedding and embedding[0].dtype in FLOATS and embedding[0].shape else 0
    for bits, wanted in ((4, hidden / 2), (8, hidden)):
        if hidden and wanted in columns:
            return bits
    fault = "official integer weights without float embeddings beside them, so that their packing is not known"
    raise CheckpointError(str(files[0].path), fault, "Take the float weights, and quantise on load.")


def as_floats(files: Sequence[TensorFile], bits: int) -> list[TensorFile]:
    """The files with float32 tensors in the place of integers and scales; each is computed when it is read."""
    return [_as_floats(file, files, bits) for file in files]


def _as_floats(file: TensorFile, files: Sequence[TensorFile], bits: int) -> TensorFile:
    packed = {name for other in files for name in _packed(other, files)}
    entries, computed = {}, dict(file.computed)
    scaled: dict[str, Scales] = {}
    integers: dict[str, Rows] = {}
    halves: dict[str, Rows] = {}
    for name, entry in file.entries.items():
        if name.removesuffix(_SCALE) in packed and name.endswith(_SCALE):
            continue
        if name in packed:
            rows, columns = entry.shape
            scales = next(other for other in files if name + _SCALE in other.entries)
            entry = Entry(name, "float32", (rows, columns * (8 // bits)), (), strides=())
            computed[name] = partial(_dequantised, file, scales, name, bits)
            if scales.entries[name + _SCALE].dtype == "float16":
                scaled[name] = partial(_scales, scales, name)
                integers[name] = partial(_integers, file, name, bits)
                if bits == 4 and entry.shape[1] % BLOCK == 0:
                    halves[name] = partial(_halves, file, name)
        entries[name] = entry
    return TensorFile(file.path, file.format, entries, file.metadata, computed, scaled, integers, halves=halves)


def _scales(scales: TensorFile, name: str) -> np.ndarray:
    return scales.read_bits(name + _SCALE)[:, None]


def _dequantised(file: TensorFile, scales: TensorFile, name: str, bits: int, start: int, stop: int) -> np.ndarray:
    whole = _integers(file, name, bits, start, stop)
    scale = convert_bits(scales.read_rows(name + _SCALE, start, stop), scales.entries[name + _SCALE].dtype, "float32")
    return whole.astype(np.float32) * scale[:, None].astype(np.float32)


def _integers(file: TensorFile, name: str, bits: int, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) as int8 (rows, K)."""
    stored = file.read_rows(name, start, stop)
    if bits == 8:
        return stored
    pairs = stored.view(np.uint8).astype("<u2")
    second = pairs << np.uint16(8)
    pairs >>= np.uint16(4)  # the high half is the first
    pairs |= second
    pairs &= np.uint16(0x0F0F)
    halves = pairs.view(np.uint8)
    halves ^= np.uint8(8)  # so that two's complement of four bits becomes that of eight
    halves -= np.uint8(8)
    return halves.view(np.int8)


def _halves(file: TensorFile, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) with the halves where ours are: column j of a block of 128 beside column j + 64."""
    stored = file.read_rows(name, start, stop).view(np.uint8).reshape(-1, 2, BLOCK // 4)
    low, high = stored[:, 0].astype("<u2"), stored[:, 1].astype("<u2")  # two columns each, the first in the high half
    first = low >> np.uint16(4)
    first |= high & np.uint16(0xF0)
    high <<= np.uint16(4)
    high &= np.uint16(0xF0)
    low &= np.uint16(0x0F)
    low |= high
    low <<= np.uint16(8)
    low |= first
    low ^= np.uint16(0x8888)  # two's complement of four bits becomes that many above -8
    return low.view(np.uint8).reshape(stop - start, -1)


def _packed(file: TensorFile, files: Sequence[TensorFile]) -> list[str]:
    """Names of integer weights in a file that have a scale for each row, in it or in another shard."""

    def scale_of(entry: Entry) -> Entry | None:
        return next((f.entries[entry.name + _SCALE] for f in files if entry.name + _SCALE in f.entries), None)

    found = [entry for entry in file.entries.values() if entry.dtype == "int8" and len(entry.shape) == 2]
    scales = [scale_of(entry) for entry in found]
    return [
        entry.name
        for entry, scale in zip(found, scales, strict=True)
        if scale is not None and scale.dtype in FLOATS and scale.shape == entry.shape[:1]
    ]
