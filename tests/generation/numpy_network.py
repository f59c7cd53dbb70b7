"""A small causal network in NumPy, so that the engine is tested without MindSpore."""

from __future__ import annotations

import numpy as np

from mindformers_glm.generation.cache import CacheShape, KVCache


class NumpyNetwork:
    """Two layers of one-head attention with learned positions. Records what it was asked, and the largest cache."""

    def __init__(self, *, vocab_size: int = 40, max_length: int = 2048, width: int = 8, seed: int = 3):
        random = np.random.default_rng(seed)
        self.vocab_size, self.max_length = vocab_size, max_length
        self.shape = CacheShape(2, 1, width)
        self.table = random.normal(size=(vocab_size, width)).astype(np.float32)
        self.places = random.normal(size=(max_length, width)).astype(np.float32)
        self.mix = random.normal(size=(2, 4, width, width)).astype(np.float32) / width**0.5
        self.out = random.normal(size=(width, vocab_size)).astype(np.float32)
        self.forwards: list[tuple[int, int]] = []
        self.slots: list[tuple[int, int]] = []
        self.hook = None

    def new_cache(self, rows: int) -> KVCache:
        return KVCache(self.shape, rows, block=8)

    def version(self) -> bytes:
        return self.mix.tobytes()

    def forward(self, tokens, counts, cache, wanted):
        if self.hook is not None:
            self.hook()
        rows, width = tokens.shape
        self.forwards.append((rows, width))
        cache.reserve(int((cache.lengths + counts).max()))
        self.slots.append((cache.rows, cache.slots))
        positions = np.minimum(cache.lengths[:, None] + np.arange(width), self.max_length - 1)
        x = self.table[tokens] + self.places[positions]
        past = np.arange(cache.slots) < cache.lengths[:, None]
        seen = np.concatenate(
            [np.repeat(past[:, None], width, 1), np.repeat(np.tril(np.ones((width, width), bool))[None], rows, 0)], 2
        )
        for layer in range(2):
            q, k, v, o = (x @ matrix for matrix in self.mix[layer])
            keys = np.concatenate([cache.keys[layer, :, 0], k], 1)
            values = np.concatenate([cache.values[layer, :, 0], v], 1)
            scores = np.where(seen, q @ keys.transpose(0, 2, 1), -1e4)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            x = x + np.tanh(weights / weights.sum(-1, keepdims=True) @ values) + 0.1 * o
            cache.append(layer, k[:, None], v[:, None], counts)
        cache.advance(counts)
        return None if wanted is None else (x.reshape(rows * width, -1)[wanted] @ self.out).astype(np.float32)

    def logits(self, ids) -> np.ndarray:
        """Logits after `ids`, computed in one piece: the reference."""
        cache = self.new_cache(1)
        row = np.asarray([ids], np.int32)
        return self.forward(row, np.asarray([len(ids)]), cache, np.asarray([len(ids) - 1]))[0]

    def all_logits(self, ids) -> np.ndarray:
        cache = self.new_cache(1)
        return self.forward(np.asarray([ids], np.int32), np.asarray([len(ids)]), cache, np.arange(len(ids)))
