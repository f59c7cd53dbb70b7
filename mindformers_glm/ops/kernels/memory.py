"""Memory that kernels stream through: in pages of two megabytes where the system has them.

With pages of four kilobytes each step asks the processor for tens of thousands of addresses, which takes a third of
the time of decoding a batch.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

_HUGE = 2 << 20
_ALIGNED = 64  # bytes of a line of a CPU's cache


def padded(nbytes: int) -> int:
    """Bytes that an array takes in an arena."""
    return -(-nbytes // _ALIGNED) * _ALIGNED


class Arena:
    """`nbytes` of memory, from which arrays are taken one after the other; it lives as long as one of them."""

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        memory = mmap.mmap(-1, nbytes + _HUGE)
        if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(memory, np.uint8)
        self._at = -self._bytes.ctypes.data % _HUGE

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An array of zeros that begins where a line of a CPU's cache does.

        Raises:
            MemoryError: so much is not left.
        """
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if padded(nbytes) > self._left:
            raise MemoryError(f"{nbytes} bytes are asked of an arena that has {self._left} left")
        found = self._bytes[self._at : self._at + nbytes].view(dtype).reshape(shape)
        self._at += padded(nbytes)
        self._left -= padded(nbytes)
        return found
