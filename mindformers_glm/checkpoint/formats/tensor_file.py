"""One file of tensors as a table of byte ranges: names, types and shapes cost a few kilobytes, data is read on request.

Data is read with ordinary reads, so that memory in use stays what was asked for and a file that shrinks meanwhile is
an error and not a crash. Only a network that computes from its files maps them (`mapped_bits`).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase, RawIOBase
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import DTYPES
from mindformers_glm.errors import CheckpointError, shorten

_MOST_AXES, _LONGEST_AXIS, _LONGEST_NAME = 32, 1 << 48, 1000
MOST_TENSORS = 200_000  # in one file: a network of 130 billion parameters has some 3,000


class Span(NamedTuple):
    """A run of bytes in the file."""

    offset: int
    size: int


class Entry(NamedTuple):
    """Where one tensor lies. `strides`, in elements, is given only when rows are not stored one after another."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    spans: tuple[Span, ...]
    strides: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Bytes of the tensor when stored densely."""
        return math.prod(self.shape) * DTYPES[self.dtype].storage.itemsize


Rows: TypeAlias = Callable[[int, int], np.ndarray]  # computes rows [start, stop) of a tensor
Scales: TypeAlias = Callable[[], np.ndarray]


@dataclass
class TensorFile:
    """The tensors of one file, in the order of the file."""

    path: Path
    format: str
    entries: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)
    computed: dict[str, Rows] = field(default_factory=dict)  # rows of what no bytes hold
    scales: dict[str, Scales] = field(default_factory=dict)  # of integers: float16 (rows, groups)
    integers: dict[str, Rows] = field(default_factory=dict)  # int8, which times scales are what is computed
    panels: dict[str, Callable[[], np.ndarray | None]] = field(default_factory=dict)  # where they lie (panel_files.py)
    halves: dict[str, Rows] = field(default_factory=dict)  # the same of 4 bits, two in a byte as ops/quantized.py says
    network: Mapping[str, Any] | None = None  # what a config.json would say, of a file that is a whole model
    vocabulary: Callable[[], dict[str, bytes]] | None = None  # its tokenizer's files: name -> content
    mapping: mmap.mmap | None = None  # the file, where it has been mapped

    def read_bits(self, name: str) -> np.ndarray:
        """The tensor's bits in its storage type (see dtypes.py), a new array of the tensor's shape."""
        entry = self.entries[name]
        if name in self.computed:
            return self.computed[name](0, entry.shape[0])
        storage = DTYPES[entry.dtype].storage
        stored = np.empty(sum(span.size for span in entry.spans) // storage.itemsize, storage)
        self._fill(entry, stored.data.cast("B") if stored.size else memoryview(b""))
        if entry.strides is None:
            return stored.reshape(entry.shape)
        strides = tuple(step * storage.itemsize for step in entry.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(stored, entry.shape, strides))

    def read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of a tensor's bits."""
        if name in self.computed:
            return self.computed[name](start, stop)
        entry = self.entries[name]
        if entry.strides is not None:
            return self.read_bits(name)[start:stop]
        row_bytes = entry.size // max(entry.shape[0], 1)
        spans = tuple(self.spans(name, start * row_bytes, stop * row_bytes))
        part = np.empty((stop - start, *entry.shape[1:]), DTYPES[entry.dtype].storage)
        self._fill(entry._replace(spans=spans), part.data.cast("B") if part.size else memoryview(b""))
        return part

    def mapped_bits(self, name: str) -> np.ndarray | None:
        """The tensor's bits where they lie in the file, read-only; None where they do not lie there as they are needed.

        Pages are read when they are touched, and shared with whoever maps the same file. The file must stay as it is:
        writers here put a new one in its place.
        """
        entry = self.entries[name]
        storage = DTYPES[entry.dtype].storage
        if name in self.computed or entry.strides is not None or len(entry.spans) != 1 or not entry.size:
            return None
        if entry.spans[0].offset % storage.itemsize:
            return None
        if self.mapping is None:
            with open(self.path, "rb") as file:
                self.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if entry.spans[0].offset + entry.size > len(self.mapping):
            raise damaged(self.path, "the file ended in the middle of a tensor")
        count = entry.size // storage.itemsize
        return np.frombuffer(self.mapping, storage, count, entry.spans[0].offset).reshape(entry.shape)

    def spans(self, name: str, start: int, stop: int) -> list[Span]:
        """Where bytes [start, stop) of a densely stored tensor lie."""
        found, position = [], 0
        for span in self.entries[name].spans:
            first, last = max(start - position, 0), min(stop - position, span.size)
            if first < last:
                found.append(Span(span.offset + first, last - first))
            position += span.size
        return found

    def _fill(self, entry: Entry, target: memoryview) -> None:
        with open(self.path, "rb", buffering=0) as file:
            for span in entry.spans:
                file.seek(span.offset)
                read_exactly(file, target[: span.size], self.path)
                target = target[span.size :]


def give_back(bits: np.ndarray) -> None:
    """Gives back the memory of what `mapped_bits` gave; it is read again from its file when it is touched."""
    whole: Any = bits
    while isinstance(whole, np.ndarray) and whole.base is not None:
        whole = whole.base
    whole = whole.obj if isinstance(whole, memoryview) else whole
    is_of_file = isinstance(whole, mmap.mmap) and not bits.flags.writeable
    if is_of_file and hasattr(mmap, "MADV_DONTNEED"):
        first = bits.ctypes.data - np.frombuffer(whole, np.uint8, 1).ctypes.data
        begin, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, first + bits.nbytes
        if end - begin >= mmap.PAGESIZE:
            whole.madvise(mmap.MADV_DONTNEED, begin, (end - begin) // mmap.PAGESIZE * mmap.PAGESIZE)


def check_spans(path: Path, entry: Entry, limit: int) -> Entry:
    """The entry itself when its bytes lie in the file and are as many as its shape needs.

    Raises:
        CheckpointError: otherwise; nothing has been allocated yet.
    """
    if len(entry.name) > _LONGEST_NAME:
        raise damaged(path, f"the name of a tensor has {len(entry.name):,} characters ({entry.name[:40]!r}...)")
    if len(entry.shape) > _MOST_AXES:
        raise damaged(path, f"tensor {entry.name!r} has {len(entry.shape):,} axes")
    if any(not 0 <= size < _LONGEST_AXIS for size in entry.shape):
        raise damaged(path, f"tensor {entry.name!r} has the impossible shape {shorten(entry.shape)}")
    if any(span.offset < 0 or span.size < 0 or span.offset + span.size > limit for span in entry.spans):
        raise damaged(path, f"tensor {entry.name!r} lies outside the file ({limit:,} bytes)")
    stored = sum(span.size for span in entry.spans)
    if entry.strides is None and stored != entry.size:
        raise damaged(
            path,
            f"tensor {entry.name!r} of shape {entry.shape} {entry.dtype} needs {entry.size:,} bytes, has {stored:,}",
        )
    return entry


def damaged(path: str | Path, fault: str) -> CheckpointError:
    """The error of a file that was cut or overwritten."""
    return CheckpointError(str(path), fault, "The file is damaged or incomplete: copy or download it again.")


def read_exactly(file: RawIOBase | BufferedIOBase, target: memoryview, path: Path) -> None:
    """Fills `target` from the file's position; an early end is a CheckpointError."""
    while len(target):
        got = file.readinto(target)
        if not got:
            raise damaged(path, "the file ended in the middle of a tensor")
        target = target[got:]
