"""MindSpore .ckpt files: read and written on the protobuf wire, without loading the file or MindSpore.

Messages (mindspore/train/checkpoint.proto): Checkpoint{1: value*}, value{1: tag, 2: tensor, 3: maptensor},
tensor{1: dims*, 2: type name, 3: content}. A tensor above 512 MB is cut along its first axis into several values
of one tag that all carry the full dims. A scalar is written with dims [0]; a string has the type "str" in UTF-32.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import BY_MINDSPORE, DTYPES, bits_of, name_of
from mindformers_glm.checkpoint.formats.tensor_file import MOST_TENSORS, Entry, Span, TensorFile, check_spans, damaged
from mindformers_glm.errors import CheckpointError, shorten
from mindformers_glm.files import atomic_write, open_regular

SLICE_BYTES = 512 * 1024 * 1024
_ENCRYPTED = (0x7F3A5ED8).to_bytes(4, "little")  # first bytes of every block that MindSpore encrypts
_WINDOW = 4096
_LONGEST_TEXT = 1 << 26
_LONGEST_NAME, _MOST_DIMS = 4000, 32


def open_ckpt(path: str | Path) -> TensorFile:
    """The table of a MindSpore .ckpt; strings in it become metadata.

    Raises:
        CheckpointError: encrypted, cut short, or not such a file.
    """
    path = Path(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise damaged(path, "the file is empty")
        if file.read(4) == _ENCRYPTED:
            raise CheckpointError(
                str(path),
                "the file is encrypted",
                "Load it in MindSpore with dec_key and save it in plain.",
            )
        end = _without_crc(file, size)
        return _table(path, _values(_Wire(file, path, end)), end)


def crc_of(path: str | Path) -> int | None:
    """The checksum that MindSpore wrote at the end of the file (save_checkpoint(crc_check=True)), or None."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if _without_crc(file, size) == size:
            return None
        file.seek(size - 10)
        return int.from_bytes(file.read(10), "big")


def save_ckpt(path: str | Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays (and Python numbers, as scalars) under their names, atomically; strings follow the arrays.

    `mindspore.load_checkpoint` reads the file. bfloat16 arrays are MindSpore's NumPy type.
    """
    with atomic_write(path) as file:
        write_ckpt(file, arrays, metadata)


def write_ckpt(file: IO[bytes], arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """As `save_ckpt`, to an open file."""
    for name, value in arrays.items():
        array = _as_array(value)
        dtype = name_of(array)
        if dtype not in DTYPES:
            raise CheckpointError(
                name, f"the type {dtype} cannot be saved", "Convert it to a float or integer type first."
            )
        write_tensor(file, name, dtype, array.shape, _dense_bytes(bits_of(array)))
    for name, text in (metadata or {}).items():
        content = np.array(str(text)).tobytes()
        file.write(value_head(name, [0], "str", len(content)) + content)


def write_tensor(file: IO[bytes], name: str, dtype: str, shape: tuple[int, ...], data: memoryview) -> None:
    """Writes one tensor from its bytes, cut into values as MindSpore cuts it."""
    dims = list(shape) or [0]
    for size in slice_sizes(shape, dtype):
        file.write(value_head(name, dims, DTYPES[dtype].mindspore, size))
        file.write(data[:size])
        data = data[size:]


def value_heads(name: str, dtype: str, shape: tuple[int, ...]) -> list[tuple[bytes, int]]:
    """(bytes to write, content size that follows) for each value of a tensor: for writers that stream the content."""
    dims = list(shape) or [0]
    return [(value_head(name, dims, DTYPES[dtype].mindspore, size), size) for size in slice_sizes(shape, dtype)]


def slice_sizes(shape: tuple[int, ...], dtype: str) -> list[int]:
    """Bytes of each value of a tensor: whole rows, the first ones longer by a row, as numpy.array_split cuts."""
    total = Entry("", dtype, tuple(shape), ()).size
    count = math.ceil(total / SLICE_BYTES)
    if count <= 1:
        return [total]
    row = total // shape[0]
    short, longer = divmod(shape[0], count)
    sizes = [(short + (index < longer)) * row for index in range(count)]
    return [size for size in sizes if size]


class _Value(NamedTuple):
    tag: str
    dims: tuple[int, ...]
    dtype: str
    span: Span
    text: str | None


class _Wire:
    """A cursor over the file that parses keys and lengths and skips contents."""

    def __init__(self, file: IO[bytes], path: Path, end: int) -> None:
        self.file, self.path, self.end = file, path, end
        self.position = 0
        self._window, self._start = b"", 0

    def fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """(field number, wire type, varint value or length) up to `end`; the cursor stands at the content."""
        while self.position < end:
            key = self.varint(end)
            number, kind = key >> 3, key & 7
            if kind not in (0, 2) or number == 0:
                raise self.fault()
            value = self.varint(end)
            if kind == 2 and self.position + value > end:
                raise self.fault("the file ended in the middle of a tensor")
            yield number, kind, value

    def varint(self, end: int) -> int:
        value = shift = 0
        while self.position < end:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                break
        raise self.fault()

    def bytes(self, size: int) -> bytes:
        if size > _LONGEST_TEXT:
            raise self.fault("a name or a text is unreasonably long")
        self.file.seek(self.position)
        self.position += size
        return self.file.read(size)

    def text(self, size: int, limit: int) -> str:
        if size > limit:
            raise self.fault(f"a name of {size:,} bytes")
        try:
            return self.bytes(size).decode()
        except UnicodeDecodeError as error:
            raise self.fault() from error

    def fault(self, fault: str = "not a MindSpore checkpoint") -> CheckpointError:
        return damaged(self.path, f"{fault} (byte {self.position:,})")

    def _byte(self) -> int:
        index = self.position - self._start
        if not 0 <= index < len(self._window):
            self.file.seek(self.position)
            self._window, self._start, index = self.file.read(_WINDOW), self.position, 0
            if not self._window:
                raise self.fault("the file ended too early")
        self.position += 1
        return self._window[index]


def _values(wire: _Wire) -> Iterator[_Value]:
    for number, kind, size in wire.fields(wire.end):
        if (number, kind) != (1, 2):
            raise wire.fault()
        yield _value(wire, wire.position + size)


def _value(wire: _Wire, end: int) -> _Value:
    tag, value = "", None
    for number, _, size in wire.fields(end):
        if number == 1:
            tag = wire.text(size, _LONGEST_NAME)
        elif number == 2:
            value = _tensor(wire, wire.position + size)
        else:
            raise CheckpointError(
                str(wire.path),
                f"{tag!r} is a hash-table parameter (MapParameter)",
                "Such checkpoints cannot be read.",
            )
    if not tag or value is None:
        raise wire.fault()
    return value._replace(tag=tag)


def _tensor(wire: _Wire, end: int) -> _Value:
    dims: list[int] = []
    dtype, span = "", None
    for number, kind, size in wire.fields(end):
        if number == 1 and kind == 0:
            dims.append(size)
        elif number == 1:
            stop = wire.position + size
            while wire.position < stop and len(dims) < _MOST_DIMS:
                dims.append(wire.varint(stop))
        elif number == 2:
            dtype = wire.text(size, _LONGEST_NAME)
        elif number == 3:
            span = Span(wire.position, size)
            wire.position += size
        else:
            raise wire.fault()
        if len(dims) >= _MOST_DIMS:
            raise wire.fault(f"a tensor of {_MOST_DIMS} axes or more")
    if span is None or not dtype:
        raise wire.fault()
    if dtype != "str":
        return _Value("", tuple(dims), dtype, span, None)
    after, wire.position = wire.position, span.offset
    text = wire.bytes(span.size).decode("utf-32-le", errors="replace").rstrip("\0")
    wire.position = after
    return _Value("", tuple(dims), dtype, span, text)


def _table(path: Path, values: Iterable[_Value], limit: int) -> TensorFile:
    entries: dict[str, Entry] = {}
    texts: dict[str, list[str]] = {}
    parts: dict[str, list[Span]] = {}
    last = None
    for value in values:
        if len(entries) > MOST_TENSORS:
            raise damaged(path, f"more than {MOST_TENSORS:,} tensors")
        if value.text is not None:
            texts.setdefault(value.tag, []).append(value.text)
        elif value.tag == last and value.tag in entries:  # a tensor that was cut
            entry, part = entries[value.tag], _entry(path, value)
            if (part.shape or (0,)) != (entry.shape or (0,)) or part.dtype != entry.dtype:
                raise damaged(path, f"the parts of {value.tag!r} differ in shape or type")
            parts.setdefault(value.tag, list(entry.spans)).append(value.span)
        elif value.tag in entries:
            raise damaged(path, f"{value.tag!r} is stored twice")
        else:
            entries[value.tag] = _entry(path, value)
        last = value.tag
    entries.update({name: entries[name]._replace(spans=tuple(spans)) for name, spans in parts.items()})
    checked = {name: check_spans(path, entry, limit) for name, entry in entries.items()}
    return TensorFile(path, "ckpt", checked, {name: "".join(pieces) for name, pieces in texts.items()})


def _entry(path: Path, value: _Value) -> Entry:
    if value.dtype not in BY_MINDSPORE:
        raise CheckpointError(
            str(path), f"tensor {value.tag!r} has the type {shorten(value.dtype)}", "This number type cannot be read."
        )
    shape = () if value.dims == (0,) and value.span.size else value.dims
    return Entry(value.tag, BY_MINDSPORE[value.dtype].name, shape, (value.span,))


def _without_crc(file: IO[bytes], size: int) -> int:
    """Where the messages end: MindSpore may append `crc_num` and ten bytes."""
    if size < 17:
        return size
    file.seek(size - 17)
    return size - 17 if file.read(7) == b"crc_num" else size


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, (bool, int)):
        return np.array(value, np.int64)
    return np.array(value, np.float32) if isinstance(value, float) else np.asarray(value)


def _dense_bytes(bits: np.ndarray) -> memoryview:
    return np.ascontiguousarray(bits).reshape(-1).data.cast("B") if bits.size else memoryview(b"")


def value_head(name: str, dims: list[int], dtype: str, size: int) -> bytes:
    """Everything of one value before its content, which is the last field of the last message."""
    inner = b"".join(b"\x08" + _varint(dim) for dim in dims)
    inner += b"\x12" + _varint(len(dtype)) + dtype.encode() + b"\x1a" + _varint(size)
    tag = name.encode()
    outer = b"\x0a" + _varint(len(tag)) + tag + b"\x12" + _varint(len(inner) + size) + inner
    return b"\x0a" + _varint(len(outer) + size) + outer


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
