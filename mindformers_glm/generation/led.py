"""One network in several processes: the leader runs the engine, the other ranks repeat its calls on their parts.

Every rank holds its part of the weights and of the KV caches. Before the leader calls its network or changes a cache it
sends that call as a short message. So the other ranks need to know nothing of prompts, sampling or arrival times;
batches depend on the leader alone. `follow` is all that the other ranks run.
"""

from __future__ import annotations

import json
import weakref
from collections import deque
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Any

import numpy as np

from mindformers_glm.generation.cache import BLOCK, CacheShape, KVCache
from mindformers_glm.generation.network import MindSporeNetwork
from mindformers_glm.parallel.collectives import broadcast_bytes
from mindformers_glm.parallel.mesh import Axis


class LeadingNetwork:
    """The engine's `Network` on rank 0 of `axis`: sends each call to the other ranks, then computes its own part."""

    def __init__(self, network: MindSporeNetwork, axis: Axis) -> None:
        self._network, self._axis, self._numbers = network, axis, count()
        self._dropped: deque[int] = deque()  # caches that were freed; the next message tells
        self.vocab_size, self.max_length = network.vocab_size, network.max_length

    @property
    def compilations(self) -> int:
        """Graphs compiled so far."""
        return self._network.compilations

    def new_cache(self, rows: int) -> KVCache:
        """See Network."""
        cache = _LedCache(self._network.shape, rows, self)
        self.tell("new", cache.number, rows)
        return cache

    def version(self) -> Hashable:
        """See Network."""
        return self._network.version()

    def forward(
        self, tokens: np.ndarray, counts: np.ndarray, cache: KVCache, wanted: np.ndarray | None
    ) -> np.ndarray | None:
        """See Network; the cache is one of `new_cache`."""
        told = None if wanted is None else np.asarray(wanted).tolist()
        self.tell("forward", _number_of(cache), tokens.tolist(), np.asarray(counts).tolist(), told)
        return self._network.forward(tokens, counts, cache, wanted)

    def tell(self, *what: Any) -> None:
        """Sends one call to the other ranks."""
        dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
        broadcast_bytes(self._axis, json.dumps([dropped, what]).encode())

    def end(self) -> None:
        """Ends `follow` on the other ranks."""
        self.tell("end")

    def number(self, cache: KVCache) -> int:
        """A new number for a cache; the other ranks drop theirs when it is freed."""
        number = next(self._numbers)
        weakref.finalize(cache, self._dropped.append, number).atexit = False
        return number


def _number_of(cache: KVCache) -> int:
    if not isinstance(cache, _LedCache):
        raise TypeError(type(cache))  # the other ranks have only the caches of `new_cache`
    return cache.number


class _LedCache(KVCache):
    """A cache whose changes are repeated on the other ranks."""

    def __init__(self, shape: CacheShape, rows: int, leader: LeadingNetwork, *, block: int = BLOCK) -> None:
        super().__init__(shape, rows, block=block)
        self._leader, self.number = leader, leader.number(self)

    def set_rows(self, rows: int) -> None:
        """See KVCache."""
        self._leader.tell("set_rows", self.number, rows)
        super().set_rows(rows)

    def reorder(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """See KVCache."""
        targets, sources = list(targets), list(sources)
        if targets != sources:
            self._leader.tell("reorder", self.number, targets, sources)
            super().reorder(targets, sources)

    def copy_row(self, target: int, other: KVCache, source: int) -> None:
        """See KVCache."""
        self._leader.tell("copy_row", self.number, target, _number_of(other), source)
        super().copy_row(target, other, source)

    def row(self, source: int, length: int) -> KVCache:
        """See KVCache."""
        one, plain = _LedCache(self.shape, 1, self._leader, block=self.block), super().row(source, length)
        self._leader.tell("row", self.number, source, length, one.number)
        one.keys, one.values, one.lengths = plain.keys, plain.values, plain.lengths
        return one

    def forget(self, rows: Any) -> None:
        """See KVCache."""
        rows = list(rows)
        self._leader.tell("forget", self.number, rows)
        super().forget(rows)


def follow(network: MindSporeNetwork, axis: Axis) -> None:
    """Repeats on this rank the calls that rank 0 of `axis` sends, until it sends the end."""
    caches: dict[int, KVCache] = {}
    while True:
        dropped, (name, *given) = json.loads(broadcast_bytes(axis, None))
        for number in dropped:
            caches.pop(number, None)
        if name == "end":
            return
        number, *rest = given
        if name == "new":
            caches[number] = network.new_cache(*rest)
        elif name == "forward":
            tokens, counts, wanted = rest
            place = None if wanted is None else np.array(wanted, np.int32)
            network.forward(np.array(tokens, np.int32), np.array(counts, np.int32), caches[number], place)
        elif name == "copy_row":
            target, other, source = rest
            caches[number].copy_row(target, caches[other], source)
        elif name == "row":
            source, length, new = rest
            caches[new] = caches[number].row(source, length)
        else:
            getattr(caches[number], name)(*rest)
