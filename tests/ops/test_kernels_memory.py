"""Memory in which packed weights lie."""

from __future__ import annotations

import mmap
import platform
from pathlib import Path

import numpy as np
import pytest

from mindformers_glm.ops.kernels import memory
from mindformers_glm.ops.kernels.memory import Arena, aligned, padded


def test_arrays_lie_one_after_the_other_where_lines_of_a_cache_begin():
    arena = Arena(padded(5) + padded(2 * 3 * 2))
    first, second = arena.take((5,), np.int8), arena.take((2, 3), np.float16)
    assert first.ctypes.data % (2 << 20) == 0 and second.ctypes.data - first.ctypes.data == 64
    assert not first.any() and not second.any()
    first[:], second[:] = 7, 0.5
    assert (first == 7).all() and (second == 0.5).all() and second.dtype == np.float16


@pytest.mark.parametrize("nbytes", [1, 64, 100_000])
def test_memory_begins_where_a_line_does(nbytes):
    found = [aligned(nbytes) for _ in range(5)]
    assert all(one.nbytes == nbytes and one.ctypes.data % 64 == 0 and one.flags.c_contiguous for one in found)


def test_it_outlives_the_arena():
    array = Arena(64).take((16,), np.float32)
    array[:] = 3
    assert array.sum() == 48


def test_more_than_there_is_is_refused():
    arena = Arena(128)
    arena.take((65,), np.uint8)
    with pytest.raises(MemoryError, match="1 bytes are asked of an arena that has 0 left"):
        arena.take((1,), np.uint8)


def test_nothing_is_asked_of_a_network_without_integers():
    assert Arena(0).take((0, 4), np.int8).shape == (0, 4)


def large_pages_of(address: int) -> int:
    """Kilobytes of large pages in the mapping that holds an address."""
    is_ours, found = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            begin, end = (int(part, 16) for part in words[0].split("-"))
            is_ours = begin <= address < end
        elif is_ours and words[0] == "AnonHugePages:":
            found += int(words[1])
    return found


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no large pages")
def test_a_large_arena_gets_its_pages_when_its_arrays_are_filled(monkeypatch):
    monkeypatch.setattr(memory, "AT_ONCE", 1 << 20)
    arena = Arena(6 << 20)
    array = arena.take((6 << 20,), np.uint8)
    array[:] = 9
    assert large_pages_of(array.ctypes.data) == 0
    thread = arena.settle()
    thread.join()
    assert (array == 9).all()
    if tuple(map(int, platform.release().split(".")[:2])) >= (6, 1):
        assert large_pages_of(array.ctypes.data) > 0


def test_a_small_arena_is_settled_already():
    assert Arena(1 << 20).settle() is None


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no pages of two megabytes")
def test_a_system_that_refuses_large_pages_gives_small_ones(monkeypatch):
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)
    assert Arena(4 << 20).take((4 << 20,), np.uint8)[-1] == 0
