"""Tensors as a flow of blocks, so that a file larger than memory passes through a few megabytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import convert_bits, is_finite
from mindformers_glm.checkpoint.formats.tensor_file import Span, read_exactly
from mindformers_glm.errors import CheckpointError

_FLUSH_BYTES = 1 << 27
BLOCK_BYTES = 1 << 21  # small enough to stay in a CPU's cache from reading to writing


def array_blocks(bits: np.ndarray, start: int, stop: int, block_bytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
    """Rows [start, stop) of an array in memory, flat, a block at a time."""
    rows = np.ascontiguousarray(bits if bits.ndim == 0 else bits[start:stop]).reshape(-1)
    step = max(1, block_bytes // bits.itemsize)
    for first in range(0, len(rows), step):
        yield rows[first : first + step]


def file_blocks(
    runs: Sequence[tuple[Path, Span]], storage: np.dtype, block_bytes: int = BLOCK_BYTES
) -> Iterator[np.ndarray]:
    """Runs of bytes of files as arrays of `storage`, through two buffers in turn."""
    total = sum(span.size for _, span in runs)
    size = min(block_bytes, total)
    buffers = [np.empty(size // storage.itemsize, storage) for _ in range(2 if total > size else 1)] if size else []
    turn = 0
    for path, span in runs:
        with open(path, "rb", buffering=0) as file:
            file.seek(span.offset)
            left = span.size
            while left:
                block = buffers[turn % len(buffers)][: left // storage.itemsize]
                read_exactly(file, block.data.cast("B"), path)
                left -= block.nbytes
                turn += 1
                yield block


def converted(
    blocks: Iterator[np.ndarray], source: str, target: str, *, name: str, place: str | Path
) -> Iterator[np.ndarray]:
    """The blocks as bits of another float type.

    Raises:
        CheckpointError: a number is not finite, or becomes infinite in the narrower type.
    """
    for block in blocks:
        if not is_finite(block, source):
            raise CheckpointError(
                str(place), f"{name} holds numbers that are not finite (NaN or infinity)", "Use another copy of it."
            )
        changed = convert_bits(block, source, target)
        if changed is not block and not is_finite(changed, target):
            raise CheckpointError(
                str(place), f"{name} has numbers too large for {target}", "Convert to bfloat16 or float32."
            )
        yield changed


class HashingFile:
    """A file open for writing; other threads hash the last block and push earlier ones to the disk meanwhile.

    A block may be changed by its owner once the write after the next one has begun.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        self._hash = hashlib.sha256()
        self._hasher, self._flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._hashing: Future | None = None
        self._flushing: Future | None = None
        self._flushed = 0

    def write(self, data: Any) -> None:
        """Writes bytes or a contiguous array."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        self._settle()
        self._hashing = self._hasher.submit(self._hash.update, view)
        self.file.write(view)
        self.size += len(view)
        if self.size - self._flushed >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._flush_earlier()

    def hexdigest(self) -> str:
        """The hash of all that was written; nothing can be written afterwards."""
        try:
            self._settle()
            if self._flushing is not None:
                self._flushing.result()
        finally:
            self._hasher.shutdown()
            self._flusher.shutdown()
        return self._hash.hexdigest()

    def _flush_earlier(self) -> None:
        """Lets the disk begin early, so that the fsync at the end is short."""
        if self._flushing is not None:
            self._flushing.result()
        self._flushing = self._flusher.submit(os.fsync, self.file.fileno())
        self._flushed = self.size

    def _settle(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
