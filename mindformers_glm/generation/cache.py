"""The KV cache as arrays, and the prefix cache. Shapes: L layers, R sequences, K kv heads, S slots, E head_dim, T new
tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK = 64


class CacheShape(NamedTuple):
    """What the cache holds for one token: L x K x E numbers of `dtype` for its keys, and as many for its values."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: type = np.float32


class KVCache:
    """Keys and values of sequences of different lengths, in arrays (L, R, K, S, E) that grow by blocks of slots.

    S is large enough for the longest sequence and grows by an eighth, at least by one block. Slots from
    `lengths[row]` on are not to be read.
    """

    def __init__(self, shape: CacheShape, rows: int, *, block: int = BLOCK) -> None:
        self.shape, self.block = shape, block
        self.lengths = np.zeros(rows, np.int32)
        self.keys = self._empty(rows, 0)
        self.values = self._empty(rows, 0)

    @property
    def rows(self) -> int:
        """How many sequences there is room for."""
        return len(self.lengths)

    @property
    def slots(self) -> int:
        """Slots of each sequence, used or not."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, slots: int) -> None:
        """Makes room for `slots` tokens in every sequence."""
        if slots > self.slots:
            wanted = max(slots, self.slots + self.slots // 8)
            self._resize(self.rows, -(-wanted // self.block) * self.block)

    def set_rows(self, rows: int) -> None:
        """Makes room for `rows` sequences, or drops those from `rows` on."""
        if rows != self.rows:
            self._resize(rows, self.slots)

    def append(self, layer: int, keys: np.ndarray, values: np.ndarray, counts: np.ndarray) -> None:
        """Appends to sequence r the first `counts[r]` of the new keys and values (R, K, T, E) of a layer.

        Call `reserve` before, and `advance(counts)` after the last layer.
        """
        if keys.shape[2] == 1:
            rows = np.flatnonzero(counts)
            places = self.lengths[rows]
            self.keys[layer, rows, :, places] = keys[rows, :, 0]
            self.values[layer, rows, :, places] = values[rows, :, 0]
            return
        for row in np.flatnonzero(counts):
            begin, count = self.lengths[row], counts[row]
            self.keys[layer, row, :, begin : begin + count] = keys[row, :, :count]
            self.values[layer, row, :, begin : begin + count] = values[row, :, :count]

    def advance(self, counts: np.ndarray) -> None:
        """Adds the number of appended tokens to the lengths."""
        self.lengths += counts.astype(np.int32)

    def reorder(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Sequence targets[i] becomes what sequence sources[i] was before the call."""
        moved = [(target, source) for target, source in zip(targets, sources, strict=True) if target != source]
        if not moved:
            return
        to, of = (list(side) for side in zip(*moved, strict=True))
        used = int(self.lengths[of].max(initial=0))
        self.keys[:, to, :, :used] = self.keys[:, of, :, :used]
        self.values[:, to, :, :used] = self.values[:, of, :, :used]
        self.lengths[to] = self.lengths[of]

    def copy_row(self, target: int, other: KVCache, source: int) -> None:
        """Sequence `target` becomes sequence `source` of another cache."""
        used = int(other.lengths[source])
        self.reserve(used)
        self.keys[:, target, :, :used] = other.keys[:, source, :, :used]
        self.values[:, target, :, :used] = other.values[:, source, :, :used]
        self.lengths[target] = used

    def row(self, source: int, length: int) -> KVCache:
        """A new cache with a copy of the first `length` tokens of one sequence, and no slot more."""
        one = KVCache(self.shape, 1, block=self.block)
        one.keys = self.keys[:, source : source + 1, :, :length].copy()
        one.values = self.values[:, source : source + 1, :, :length].copy()
        one.lengths[0] = length
        return one

    def forget(self, rows: Iterable[int]) -> None:
        """Empties sequences that are no longer used."""
        self.lengths[list(rows)] = 0

    def _empty(self, rows: int, slots: int) -> np.ndarray:
        layers, kv_heads, head_dim, dtype = self.shape
        return np.zeros((layers, rows, kv_heads, slots, head_dim), dtype)

    def _resize(self, rows: int, slots: int) -> None:
        kept, used = min(rows, self.rows), min(slots, self.slots)
        for name in ("keys", "values"):  # one after the other: the old array is freed before the next is made
            grown = self._empty(rows, slots)
            grown[:, :kept, :, :used] = getattr(self, name)[:, :kept, :, :used]
            setattr(self, name, grown)
        lengths = np.zeros(rows, np.int32)
        lengths[:kept] = self.lengths[:kept]
        self.lengths = lengths


class PrefixStore:
    """The prefix cache: KV caches of earlier prompts and replies, the least recently used evicted first.

    At most `capacity` tokens in all; tokens of blocks that several entries share count once. An entry belongs to the
    adapter that it was computed with (by number) and is used for no other.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.asked_tokens = self.found_tokens = 0  # prompt tokens looked up here, and those that were found
        self._entries: OrderedDict[tuple[int, tuple[int, ...]], KVCache] = OrderedDict()

    @property
    def tokens(self) -> int:
        """How many tokens are held."""
        return _tokens_of(list(self._entries.values()))

    def give_up_oldest(self) -> bool:
        """Evicts the least recently used entry; False where there is none."""
        if self._entries:
            self._entries.popitem(last=False)
            return True
        return False

    def clear(self) -> None:
        """Drops every entry."""
        self._entries.clear()

    def drop(self, adapter: int) -> None:
        """Drops the entries of an adapter."""
        for known in [known for known in self._entries if known[0] == adapter]:
            del self._entries[known]

    def take(self, ids: Sequence[int], adapter: int = 0) -> tuple[int, KVCache | None]:
        """The length of the longest prefix of `ids` that is held (never all of them), and a cache of it."""
        best, found = 0, None
        for known in self._entries:
            length = common_beginning(known[1], ids, len(ids) - 1) if known[0] == adapter else 0
            if length > best:
                best, found = length, known
        self.asked_tokens, self.found_tokens = self.asked_tokens + len(ids), self.found_tokens + best
        if found is None:
            return 0, None
        self._entries.move_to_end(found)
        return best, self._entries[found].row(0, best)

    def put(self, ids: Sequence[int], cache: KVCache, row: int, adapter: int = 0) -> None:
        """Keeps the cache of `ids`, which sequence `row` holds, in place of entries that are a prefix of `ids`."""
        ids = tuple(ids)
        if not 0 < len(ids) <= self.capacity:
            return
        for known in [known for known in self._entries if known == (adapter, ids[: len(known[1])])]:
            del self._entries[known]
        one = cache.row(row, len(ids))
        while self._entries and _tokens_of([*self._entries.values(), one]) > self.capacity:
            self._entries.popitem(last=False)
        self._entries[adapter, ids] = one


def _tokens_of(caches: Sequence[Any]) -> int:
    """How many tokens these caches of one sequence hold together; tokens of shared blocks count once."""
    if all(hasattr(cache, "blocks_of") for cache in caches):
        return sum({block: tokens for cache in caches for block, tokens in cache.blocks_of(0)}.values())
    return sum(int(cache.lengths[0]) for cache in caches)


def common_beginning(known: Sequence[int], ids: Sequence[int], limit: int) -> int:
    """Length of the common prefix, at most `limit`."""
    size = min(len(known), limit)
    if list(known[:size]) == list(ids[:size]):
        return size
    return next(place for place in range(size) if known[place] != ids[place])
