"""Weights packed in groups along their columns, GPTQ's and AWQ's way, as the floats that they stand for.

Of a linear layer (N rows, K columns) a file has `scales` float16 (G, N) for G groups of columns, and integers of b bits
in int32 words:

- GPTQ: `qweight` (K * b / 32, N): word r of a row n holds columns 32 / b * r and on, lowest bits first; `qzeros`
  (G, N * b / 32): the zero minus 1 (in the later form "gptq_v2" the zero itself); `g_idx` (K): the group of each
  column, in any order (desc_act). Without g_idx groups follow one another.
- AWQ ("gemm", 4 bits): `qweight` (K, N / 8) and `qzeros` (G, N / 8), the zero itself, nibbles in the order
  0 2 4 6 1 3 5 7.

w[n, k] = scales[g, n] * (q - zero), which float32 holds exactly. Sources: AutoGPTQ's qlinear_cuda_old.py, AutoAWQ's
packing_utils.py. What tells the two apart is the shape of qweight.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import FLOATS, convert_bits
from mindformers_glm.checkpoint.formats.tensor_file import Entry, Scales, TensorFile
from mindformers_glm.errors import CheckpointError, shorten

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
_BITS = (2, 4, 8)


class Packed(NamedTuple):
    """The packed tensors of one layer: part -> the file that holds it."""

    layer: str
    method: str  # "gptq" or "awq"
    bits: int
    rows: int
    columns: int
    files: Mapping[str, TensorFile]

    def read(self, part: str) -> np.ndarray:
        """The bits of one part."""
        return self.files[part].read_bits(self.layer + part)


class _Last:
    """The parts of the layer that was read last: its rows are asked for a few at a time, and lie across the file."""

    def __init__(self) -> None:
        self._lock, self._layer, self._rows = threading.Lock(), "", 0
        self._parts: dict[str, np.ndarray] = {}

    def read(self, layer: Packed, part: str) -> np.ndarray:
        """The bits of one part."""
        with self._lock:
            if self._layer != layer.layer:
                self._layer, self._rows, self._parts = layer.layer, 0, {}
            if part not in self._parts:
                self._parts[part] = layer.read(part)
            return self._parts[part]

    def made(self, layer: Packed, rows: int) -> None:
        """Gives the memory back once as many rows have been made as the layer has."""
        with self._lock:
            if self._layer == layer.layer:
                self._rows += rows
                if self._rows >= layer.rows:
                    self._layer, self._rows, self._parts = "", 0, {}


def packed_layers(files: Sequence[TensorFile]) -> list[Packed]:
    """The layers that are packed so, each checked: types and shapes agree.

    Raises:
        CheckpointError: a part is missing or has another shape, or the packing is not read here.
    """
    places = {name: file for file in files for name in file.entries}
    layers = [name.removesuffix(".qweight") for name in places if name.endswith(".qweight")]
    return [_layer(layer, places) for layer in layers]


def as_floats(files: Sequence[TensorFile], layers: Sequence[Packed], settings: Mapping[str, Any]) -> list[TensorFile]:
    """The files with a float32 `weight` in the place of each layer's parts, computed when it is read."""
    parts = {layer.layer + part for layer in layers for part in layer.files}
    made: dict[int, dict[str, Packed]] = {}
    for layer in layers:
        made.setdefault(id(layer.files[".qweight"]), {})[layer.layer + ".qweight"] = layer
    last = _Last()
    offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    found = []
    for file in files:
        entries, computed = {}, dict(file.computed)
        scaled: dict[str, Scales] = {}
        for name, entry in file.entries.items():
            if name in (own := made.get(id(file), {})):
                layer = own[name]
                weight = layer.layer + ".weight"
                entries[weight] = Entry(weight, "float32", (layer.rows, layer.columns), (), strides=())
                computed[weight] = partial(_dequantised, layer, last, offset)
                if _is_in_order(layer):
                    scaled[weight] = partial(_scales, layer)
            elif name not in parts:
                entries[name] = entry
        found.append(TensorFile(file.path, file.format, entries, file.metadata, computed, scaled))
    return found


def _is_in_order(layer: Packed) -> bool:
    """True where groups are of one size and follow one another, and scales are float16."""
    scales = layer.files[".scales"].entries[layer.layer + ".scales"]
    size, rest = divmod(layer.columns, scales.shape[0])
    if rest or scales.dtype != "float16":
        return False
    return ".g_idx" not in layer.files or np.array_equal(layer.read(".g_idx"), np.arange(layer.columns) // size)


def _scales(layer: Packed) -> np.ndarray:
    return np.ascontiguousarray(layer.read(".scales").T)


def _layer(layer: str, places: Mapping[str, TensorFile]) -> Packed:
    files = {part: places[layer + part] for part in _PARTS if layer + part in places}
    place = str(files[".qweight"].path)
    missing = [part for part in _PARTS[:3] if part not in files]
    if missing:
        fault = f"the packed layer {layer} has no {' and no '.join(missing)}"
        raise CheckpointError(place, fault, "The file is incomplete: copy or download it again.")
    entries = {part: file.entries[layer + part] for part, file in files.items()}
    words, zeros, scales = (entries[part] for part in _PARTS[:3])
    known = words.dtype == zeros.dtype == "int32" and scales.dtype in FLOATS
    if not known or not len(words.shape) == len(zeros.shape) == len(scales.shape) == 2 or 0 in scales.shape:
        raise CheckpointError(place, f"the packed layer {layer} has {_told(entries)}", _PACKINGS)
    groups, rows = scales.shape
    if words.shape[1] == rows and zeros.shape[0] == groups and zeros.shape[1] * 32 % rows == 0:
        bits = zeros.shape[1] * 32 // rows
        columns = words.shape[0] * 32 // bits if bits in _BITS else 0
        made = Packed(layer, "gptq", bits, rows, columns, files)
        index = entries.get(".g_idx")
        fits = index is None or (index.dtype in ("int32", "int64") and index.shape == (columns,))
    else:
        columns = words.shape[0]
        made = Packed(layer, "awq", 4, rows, columns, files)
        fits = words.shape[1] * 8 == rows and zeros.shape == (groups, rows // 8) and ".g_idx" not in files
    even = ".g_idx" in files or (columns and columns % groups == 0)
    if made.bits not in _BITS or not columns or not fits or not even or groups > columns:
        raise CheckpointError(place, f"the packed layer {layer} has {_told(entries)}", _PACKINGS)
    return made


_PACKINGS = "Read are GPTQ of 2, 4 and 8 bits (not Marlin's or ExLlama's own order) and AWQ's GEMM form of 4 bits."


def _told(entries: Mapping[str, Entry]) -> str:
    return ", ".join(f"{part[1:]} {shorten(entry.shape)} {entry.dtype}" for part, entry in entries.items())


def _dequantised(layer: Packed, parts: _Last, offset: int, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of the weight, float32."""
    scale = convert_bits(
        parts.read(layer, ".scales"), layer.files[".scales"].entries[layer.layer + ".scales"].dtype, "float32"
    )
    scale = scale.astype(np.float32)[:, start:stop]
    words, zeros = (parts.read(layer, part).view(np.uint32) for part in (".qweight", ".qzeros"))
    if layer.method == "gptq":
        whole = _unpacked(words[:, start:stop].T, layer.bits, range(32 // layer.bits))  # (rows, columns)
        zero = (_unpacked(zeros, layer.bits, range(32 // layer.bits)) + offset) & (
            (1 << layer.bits) - 1 if offset else 255
        )
        groups = _groups(layer, parts, len(scale))
    else:
        order = np.argsort(_AWQ_ORDER)
        first, last = start // 8 * 8, -(-stop // 8) * 8
        whole = _unpacked(words[:, first // 8 : last // 8], 4, order).T[start - first : stop - first]
        zero, groups = _unpacked(zeros, 4, order), _groups(layer, parts, len(scale))
    zero = zero[:, start:stop].astype(np.float32)
    value = whole.astype(np.float32)
    value -= zero.T[:, groups]
    value *= scale.T[:, groups]
    parts.made(layer, stop - start)
    return value


def _groups(layer: Packed, parts: _Last, count: int) -> np.ndarray:
    """The group of each column.

    Raises:
        CheckpointError: g_idx names a group that is not there.
    """
    if ".g_idx" not in layer.files:
        return np.arange(layer.columns) // (layer.columns // count)
    groups = parts.read(layer, ".g_idx")
    if groups.min() < 0 or groups.max() >= count:
        place = str(layer.files[".g_idx"].path)
        fault = f"{layer.layer}.g_idx names group {max(int(groups.max()), -int(groups.min()))} of {count}"
        raise CheckpointError(place, fault, "The file is damaged: copy or download it again.")
    return groups


def _unpacked(words: np.ndarray, bits: int, order: Sequence[int] | np.ndarray) -> np.ndarray:
    """uint32 (A, B) as numbers uint8 (A, B * 32 / bits): number j of a word lies in its place order[j]."""
    shifts = np.asarray(order, np.uint32) * np.uint32(bits)
    found = np.empty((*words.shape, len(shifts)), np.uint8)
    for number, shift in enumerate(shifts):
        found[:, :, number] = (words >> shift) & np.uint32((1 << bits) - 1)
    return found.reshape(len(words), -1)
