"""What files of GGML tensors share, whoever wrote their table: sizes checked, rows read and computed on request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindformers_glm.checkpoint.formats.ggml_blocks import GGML_TYPES, dequantised, type_name
from mindformers_glm.checkpoint.formats.tensor_file import (
    Entry,
    Rows,
    Scales,
    Span,
    TensorFile,
    check_spans,
    damaged,
    read_exactly,
)
from mindformers_glm.errors import CheckpointError, shorten

_LONGEST_AXIS = 1 << 48
_SOME = 256  # rows at a time


class Stored(NamedTuple):
    """A tensor as the table states it: `kind` is GGML's number of its type."""

    name: str
    kind: int
    shape: tuple[int, ...]
    start: int
    wide: bool = False  # float32 also where the file has another float type

    def checked_size(self, path: Path, limit: int) -> int:
        """Its bytes, which lie in a file of `limit` bytes.

        Raises:
            CheckpointError: they do not, the type is not read here, or rows are no whole number of blocks.
        """
        if self.kind not in GGML_TYPES:
            fault = f"tensor {shorten(self.name)} is of the type {type_name(self.kind)}, which is not read here"
            known = ", ".join(kind.name for kind in GGML_TYPES.values())
            raise CheckpointError(str(path), fault, f"Known are {known}: quantise the model again as one of them.")
        kind = GGML_TYPES[self.kind]
        if not self.shape or any(not 0 < size < _LONGEST_AXIS for size in self.shape):
            raise damaged(path, f"tensor {shorten(self.name)} has the impossible shape {shorten(self.shape)}")
        if self.shape[-1] % kind.columns:
            fault = f"tensor {shorten(self.name)} has {self.shape[-1]:,} columns, no multiple of {kind.columns}"
            raise damaged(path, f"{fault} as {kind.name} needs")
        size = math.prod(self.shape) // kind.columns * kind.size
        if self.start < 0 or self.start + size > limit:
            raise damaged(path, f"tensor {shorten(self.name)} lies outside the file ({limit:,} bytes)")
        return size


def ggml_tensors(path: Path, form: str, stored: Sequence[Stored], limit: int) -> TensorFile:
    """The tensors as a table: floats where they lie, the others as float32 that is computed when it is read.

    Raises:
        CheckpointError: as `Stored.checked_size`; or a name stands twice.
    """
    entries: dict[str, Entry] = {}
    computed: dict[str, Rows] = {}
    scaled: dict[str, Scales] = {}
    for tensor in stored:
        if tensor.name in entries:
            raise damaged(path, f"it has tensor {shorten(tensor.name)} twice")
        size = tensor.checked_size(path, limit)
        kind = GGML_TYPES[tensor.kind]
        if kind.plain and not tensor.wide:
            spans = (Span(tensor.start, size),)
            entries[tensor.name] = check_spans(path, Entry(tensor.name, kind.plain, tensor.shape, spans), limit)
            continue
        entries[tensor.name] = check_spans(path, Entry(tensor.name, "float32", tensor.shape, (), strides=()), limit)
        computed[tensor.name] = partial(_rows, path, tensor)
        if kind.is_scaled and len(tensor.shape) == 2:
            scaled[tensor.name] = partial(_scales, path, tensor)
    kinds = sorted({GGML_TYPES[tensor.kind].name for tensor in stored if len(tensor.shape) > 1})
    return TensorFile(path, form, entries, {"types": ", ".join(kinds)}, computed, scaled)


def read_some(path: Path, span: Span) -> bytes:
    """The bytes of a span that lies in the file."""
    target = bytearray(span.size)
    with open(path, "rb", buffering=0) as file:
        file.seek(span.offset)
        read_exactly(file, memoryview(target), path)
    return bytes(target)


def _scales(path: Path, tensor: Stored) -> np.ndarray:
    """The float16 with which each block begins: (rows, blocks)."""
    kind, (rows, columns) = GGML_TYPES[tensor.kind], tensor.shape
    blocks = columns // kind.columns
    found = np.empty((rows, blocks), np.float16)
    with open(path, "rb", buffering=0) as file:
        file.seek(tensor.start)
        packed = np.empty((min(_SOME, rows), blocks, kind.size), np.uint8)
        for start in range(0, rows, _SOME):
            part = packed[: min(_SOME, rows - start)]
            read_exactly(file, part.data.cast("B"), path)
            found[start : start + len(part)] = np.ascontiguousarray(part[:, :, :2]).view("<f2")[:, :, 0]
    return found


def _rows(path: Path, tensor: Stored, start: int, stop: int) -> np.ndarray:
    kind = GGML_TYPES[tensor.kind]
    width = tensor.shape[-1] // kind.columns * kind.size
    deep = math.prod(tensor.shape[1:-1]) if len(tensor.shape) > 1 else 1
    rows = stop - start if len(tensor.shape) > 1 else 1
    packed = np.empty((rows * deep, width), np.uint8)
    with open(path, "rb", buffering=0) as file:
        file.seek(tensor.start + start * deep * width if len(tensor.shape) > 1 else tensor.start)
        read_exactly(file, packed.data.cast("B"), path)
    values = dequantised(packed, kind)
    return values.reshape(rows, *tensor.shape[1:]) if len(tensor.shape) > 1 else values.reshape(-1)[start:stop]
