"""The table of a GGUF file as bytes; see gguf.py for the format."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

ALIGNMENT = 32
_TYPES = {"uint8": (0, "<B"), "uint32": (4, "<I"), "int32": (5, "<i"), "float32": (6, "<f"), "bool": (7, "<?")}
_TEXT, _LIST = 8, 9


class Value(NamedTuple):
    """One entry of the metadata: `kind` is text, uint32, int32, float32 or bool; a list holds values of that kind."""

    name: str
    kind: str
    value: Any


class GgufTensor(NamedTuple):
    """One tensor: `shape` as PyTorch prints it, `kind` GGML's number of its type, `size` its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    size: int


def table_bytes(values: Sequence[Value], tensors: Sequence[GgufTensor]) -> bytes:
    """All before the data; tensors follow in order, each padded to a multiple of 32 bytes."""
    parts = [b"GGUF" + struct.pack("<I2Q", 3, len(tensors), len(values))]
    parts += [_text(entry.name) + _value(entry) for entry in values]
    offset = 0
    for tensor in tensors:
        axes = len(tensor.shape)
        sizes = struct.pack(f"<I{axes}Q", axes, *reversed(tensor.shape))
        parts.append(_text(tensor.name) + sizes + struct.pack("<IQ", tensor.kind, offset))
        offset += padded(tensor.size)
    content = b"".join(parts)
    return content + bytes(padded(len(content)) - len(content))


def padded(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _value(entry: Value) -> bytes:
    if isinstance(entry.value, list | np.ndarray):
        kind = _TEXT if entry.kind == "text" else _TYPES[entry.kind][0]
        return struct.pack("<2IQ", _LIST, kind, len(entry.value)) + b"".join(_plain(entry.kind, v) for v in entry.value)
    kind = _TEXT if entry.kind == "text" else _TYPES[entry.kind][0]
    return struct.pack("<I", kind) + _plain(entry.kind, entry.value)


def _plain(kind: str, value: Any) -> bytes:
    return _text(value) if kind == "text" else struct.pack(_TYPES[kind][1], value)


def _text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content
