"""An exported graph in MindSpore Lite as the engine's network. Shapes: R rows, T new tokens, N packed tokens, L layers,
K kv heads, S slots of a row, E head_dim, M wanted tokens, V vocabulary.

The graph (export/network.py) takes the tokens of all rows packed, and caches whose slots have owners. These caches lie
in memory that the worker process sees too: a step sends a few numbers, gets logits and the new keys and values, and a
worker that died has taken nothing with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from mindformers_glm.errors import GenerationError
from mindformers_glm.export.lite.cache import Allocate, PackedCache
from mindformers_glm.generation.cache import CacheShape, KVCache

PREFILL, INCREMENT = "prefill", "increment"
_NOBODY, _PADDING = -1, -2  # numbers of no sequence: of a free slot, and of a token that fills a fixed length


class Runner(Protocol):
    """What computes: a worker process, or Lite in this one."""

    def run(self, model: str, feed: Mapping[str, Any]) -> list[np.ndarray]:
        """The outputs of a loaded model for inputs by name."""
        ...

    def close(self) -> None:
        """Ends what computes; a later call begins anew."""


class Fixed(NamedTuple):
    """Lengths of graphs that have fixed ones: tokens of the prefill graph, rows of the other, slots of a row."""

    tokens: int
    rows: int
    slots: int


class LiteNetwork:
    """The engine's Network over a Runner that has loaded PREFILL and, where lengths are fixed, INCREMENT as well."""

    def __init__(
        self,
        runner: Runner,
        shape: CacheShape,
        *,
        vocab_size: int,
        max_length: int,
        allocate: Allocate,
        fixed: Fixed | None = None,
    ) -> None:
        self.runner, self.shape, self.fixed = runner, shape, fixed
        self.vocab_size, self.max_length = vocab_size, max_length
        self._allocate = allocate

    def new_cache(self, rows: int) -> PackedCache:
        """See Network."""
        size = None if self.fixed is None else (self.fixed.rows, self.fixed.slots)
        return PackedCache(self.shape, rows, self._allocate, fixed=size)

    def version(self) -> Hashable:
        """See Network: weights of an exported model never change."""
        return 0

    def forward(
        self, tokens: np.ndarray, counts: np.ndarray, cache: KVCache, wanted: np.ndarray | None
    ) -> np.ndarray | None:
        """See Network; the cache is one of `new_cache`."""
        if not isinstance(cache, PackedCache):
            raise TypeError("a LiteNetwork takes its own caches")
        cache.reserve(int((cache.lengths + counts).max()))
        rows, places = np.nonzero(np.arange(tokens.shape[1]) < counts[:, None])
        flat = np.full(tokens.size, -1, np.int32)  # place of a token (R, T) among the packed ones
        flat[rows * tokens.shape[1] + places] = np.arange(len(rows))
        asked = np.zeros(1, np.int32) if wanted is None else flat[wanted]
        feed = {
            "tokens": _wide(tokens[rows, places]),
            "positions": _wide(np.minimum(cache.lengths[rows] + places, self.max_length - 1)),
            "sequences": _wide(rows),
            "owners": _wide(_owners(cache)),
        }
        logits, keys, values = self._run(feed, asked, cache)
        self._append(cache, counts, keys, values)
        return None if wanted is None else logits

    def _run(self, feed: dict[str, np.ndarray], wanted: np.ndarray, cache: PackedCache) -> list[np.ndarray]:
        past_keys, past_values = cache.packed
        feed.update(past_keys=past_keys, past_values=past_values)
        if self.fixed is None:
            return self.runner.run(PREFILL, {**feed, "wanted": wanted})
        count = feed["tokens"].size
        name, width = (INCREMENT, self.fixed.rows) if count <= self.fixed.rows else (PREFILL, self.fixed.tokens)
        if count > width:
            raise GenerationError(f"{count} tokens at once, and this model was exported for {width}")
        for key, filling in (("tokens", 0), ("positions", 0), ("sequences", _PADDING)):
            feed[key] = _wide(np.pad(feed[key].ravel(), (0, width - count), constant_values=filling))
        logits = []
        for begin in range(0, len(wanted), self.fixed.rows):
            piece = wanted[begin : begin + self.fixed.rows]
            padded = np.pad(piece, (0, self.fixed.rows - len(piece)))
            found, keys, values = self.runner.run(name, {**feed, "wanted": padded})
            logits.append(found[: len(piece)])
        return [np.concatenate(logits), keys[..., :count, :], values[..., :count, :]]

    def _append(self, cache: PackedCache, counts: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
        """Writes new keys and values (L, 1, K, N, E) after the rows that they belong to."""
        begin = 0
        for row in np.flatnonzero(counts):
            length, count = cache.lengths[row], counts[row]
            cache.keys[:, row, :, length : length + count] = keys[:, 0, :, begin : begin + count]
            cache.values[:, row, :, length : length + count] = values[:, 0, :, begin : begin + count]
            begin += count
        cache.advance(counts)


def _owners(cache: PackedCache) -> np.ndarray:
    """The row that each slot of a packed cache belongs to: (R * S,)."""
    lengths = np.zeros(cache.held_rows, np.int32)
    lengths[: cache.rows] = cache.lengths
    used = np.arange(cache.slots) < lengths[:, None]
    return np.where(used, np.arange(cache.held_rows)[:, None], _NOBODY).ravel()


def _wide(numbers: np.ndarray) -> np.ndarray:
    """One number for each token or slot as the graph wants it: (1, 1, 1, length) int32."""
    return np.ascontiguousarray(numbers, np.int32).reshape(1, 1, 1, -1)
