"""Memory for weights that kernels read from beginning to end: in pages of two megabytes where the system has them.

With pages of four kilobytes each step translates tens of thousands of addresses, which takes a third of the time of
decoding a batch.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

_HUGE = 2 << 20
ALIGNED = 64  # bytes of a cache line, which kernels read at a time
AT_ONCE = 1 << 30  # larger arenas get large pages in the background: the system may search for them for long
_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1
_NICE = 10


def padded(nbytes: int) -> int:
    """Bytes that an array of `nbytes` takes in an arena."""
    return -(-nbytes // ALIGNED) * ALIGNED


def aligned(nbytes: int) -> np.ndarray:
    """Bytes, of any content, that begin where a line of a CPU's cache does: reading 64 of them reads one line."""
    memory = np.empty(nbytes + ALIGNED, np.uint8)
    begin = -memory.ctypes.data % ALIGNED
    return memory[begin : begin + nbytes]


def small_pages(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array of zeros in pages of four kilobytes, given back as soon as nobody has it.

    NumPy asks for large pages for every array of four megabytes. Where a system must search for them, or a virtual
    machine gets them from its host piece by piece, they take seconds for a gigabyte, which what is read or
    written once never gets back.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes < _HUGE:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype).reshape(shape)


class Arena:
    """`nbytes` of memory, from which arrays are taken one after the other; it lives as long as one of them."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = self._left = nbytes
        memory = mmap.mmap(-1, nbytes + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if _HUGE <= nbytes <= AT_ONCE and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a Linux kernel without large pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(memory, np.uint8)
        self._at = self._begin = -self._bytes.ctypes.data % _HUGE

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An array of zeros, aligned to a cache line.

        Raises:
            MemoryError: the arena has less left.
        """
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if padded(nbytes) > self._left:
            raise MemoryError(f"{nbytes} bytes are asked of an arena that has {self._left} left")
        found = self._bytes[self._at : self._at + nbytes].view(dtype).reshape(shape)
        self._at += padded(nbytes)
        self._left -= padded(nbytes)
        return found

    def settle(self) -> threading.Thread | None:
        """To be called once all arrays are filled: a large arena moves to large pages, in the thread returned."""
        if self.nbytes <= AT_ONCE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return None
        used = self._bytes[self._begin : self._at]
        thread = threading.Thread(target=_collapse, args=(used,), name="large-pages", daemon=True)
        thread.start()
        return thread


def _collapse(used: np.ndarray) -> None:
    """Makes large pages of small ones; an older Linux kernel leaves them as they are."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # of this thread
    madvise = ctypes.CDLL(None).madvise
    for at in range(0, used.nbytes - _HUGE + 1, _HUGE):
        place = ctypes.c_void_p(used.ctypes.data + at)
        if madvise(place, ctypes.c_size_t(_HUGE), _COLLAPSE) and at == 0:
            return
