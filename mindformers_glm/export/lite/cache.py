"""Caches as the exported graph wants them. Shapes: L layers, R rows, K kv heads, S slots of a row, E head_dim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mindformers_glm.export.lite.process import SharedArray
from mindformers_glm.generation.cache import CacheShape, KVCache

Allocate = Callable[[tuple[int, ...], type], "np.ndarray | SharedArray"]


class PackedCache(KVCache):
    """A KVCache that is (L, K, R, S, E) in memory and shows itself as (L, R, K, S, E).

    `allocate` makes arrays of zeros, plain or shared with a worker. `fixed` (rows, slots) is the one size there is, for
    a graph of fixed lengths; its rows beyond those in use are free.
    """

    def __init__(
        self, shape: CacheShape, rows: int, allocate: Allocate, *, fixed: tuple[int, int] | None = None
    ) -> None:
        self._allocate, self._fixed = allocate, fixed
        self._made: list[np.ndarray | SharedArray] = []
        super().__init__(shape, rows)

    @property
    def packed(self) -> tuple[Any, Any]:
        """Keys and values (L, 1, K, R * S, E), as they were allocated."""
        keys, values = self._made[-2:]
        return keys, values

    @property
    def held_rows(self) -> int:
        """Rows there is memory for."""
        return self.keys.shape[1]

    def row(self, source: int, length: int) -> PackedCache:
        """See KVCache."""
        one = PackedCache(self.shape, 1, self._allocate, fixed=self._fixed)
        one.block = self.block
        if self._fixed is None:
            one._resize(1, length)
        one.keys[:, 0, :, :length] = self.keys[:, source, :, :length]
        one.values[:, 0, :, :length] = self.values[:, source, :, :length]
        one.lengths[0] = length
        return one

    def _resize(self, rows: int, slots: int) -> None:
        super()._resize(rows, slots)
        del self._made[:-2]

    def _empty(self, rows: int, slots: int) -> np.ndarray:
        layers, kv_heads, head_dim, dtype = self.shape
        rows, slots = self._fixed or (rows, slots)
        whole = self._allocate((layers, 1, kv_heads, rows * slots, head_dim), dtype)
        self._made.append(whole)
        array = whole.array if isinstance(whole, SharedArray) else whole
        return array.reshape(layers, kv_heads, rows, slots, head_dim).transpose(0, 2, 1, 3, 4)
