"""The cache against a list of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.generation.cache import CacheShape, KVCache, PrefixStore

SHAPE = CacheShape(2, 1, 3)


def append(cache: KVCache, rows: list[list[float]], counts: list[int], random) -> None:
    width = max(max(counts), 1)
    counts = np.asarray(counts)
    cache.reserve(int((cache.lengths + counts).max()))
    new = random.normal(size=(2, 2, cache.rows, 1, width, 3)).astype(np.float32)
    for layer in range(2):
        cache.append(layer, new[0, layer], new[1, layer], counts)
    cache.advance(counts)
    for row, count in enumerate(counts):
        rows[row] += [new[:, :, row, 0, place] for place in range(count)]


def check(cache: KVCache, rows: list) -> None:
    assert cache.lengths.tolist() == [len(row) for row in rows]
    for number, row in enumerate(rows):
        for place, expected in enumerate(row):
            np.testing.assert_array_equal(cache.keys[:, number, 0, place], expected[0])
            np.testing.assert_array_equal(cache.values[:, number, 0, place], expected[1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=1, max_size=6), st.integers(0, 99))
def test_rows_grow_apart(pieces, seed):
    random = np.random.default_rng(seed)
    cache, rows = KVCache(SHAPE, 3, block=4), [[], [], []]
    for counts in pieces:
        append(cache, rows, counts, random)
        check(cache, rows)
    cache.reorder([0, 1, 2], [2, 2, 0])
    rows = [rows[2], list(rows[2]), rows[0]]
    append(cache, rows, [1, 0, 1], random)
    check(cache, rows)
    cache.set_rows(5)
    check(cache, [*rows, [], []])
    other = KVCache(SHAPE, 2, block=4)
    other.copy_row(1, cache, 0)
    check(other, [[], rows[0]])


def test_memory_follows_the_longest_row():
    cache = KVCache(SHAPE, 2)
    assert cache.nbytes == 0
    cache.reserve(1)
    assert cache.slots == 64
    cache.reserve(1000)
    assert cache.slots == 1024
    cache.reserve(1025)
    assert cache.slots == 1152


def test_prefixes_are_found_extended_and_forgotten():
    random, store = np.random.default_rng(0), PrefixStore(20)
    cache, rows = KVCache(SHAPE, 1, block=4), [[]]
    append(cache, rows, [8], random)
    ids = list(range(8))
    store.put(ids, cache, 0)
    length, found = store.take([*ids, 9, 9])
    assert length == 8
    check(found, rows)
    length, found = store.take(ids)  # the last token's logits must be computed
    assert length == 7 and found.lengths.tolist() == [7]
    assert store.take([0, 1, 5])[0] == 2
    assert store.take([7]) == (0, None)
    store.put(ids[:3], cache, 0)
    assert store.tokens == 11
    append(cache, rows, [4], random)
    store.put([*ids, 1, 2, 3, 4], cache, 0)  # continues both
    assert store.tokens == 12
    store.put([5] * 9, cache, 0)
    assert store.tokens == 9 and store.take(ids)[0] == 0
    store.put([5] * 21, cache, 0)
    assert store.tokens == 9
