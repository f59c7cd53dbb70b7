"""Log-probabilities of continuations for many contexts at once. Shapes: R contexts of a batch, V vocabulary.

Contexts that begin alike (the examples of a subject) share that beginning: it is computed once and copied into every
row. Where every continuation is one id, one forward pass of a context serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.sampling import log_probabilities
from mindformers_glm.generation.scheduler import Scheduler, check_numbers

_WORTH_SHARING = 16  # ids: a shorter common beginning is computed with the rest


class Scorer:
    """Scores batches of contexts; keeps the beginning that the last batch shared for the next one."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._ids: list[int] = []
        self._cache: KVCache | None = None

    def singles(self, contexts: Sequence[list[int]], wanted: Sequence[list[int]]) -> list[tuple[np.ndarray, int]]:
        """For each context the log-probability of each id in `wanted`, and the most probable id."""
        logits = self._last_logits(contexts)
        check_numbers(logits)
        found = []
        for row, ids in enumerate(wanted):
            one = np.repeat(logits[row : row + 1], len(ids), 0)
            found.append((log_probabilities(one, np.asarray(ids)), int(logits[row].argmax())))
        return found

    def _last_logits(self, contexts: Sequence[list[int]]) -> np.ndarray:
        """Logits (R, V) after the last id of each context."""
        common = _common(contexts)
        cache = self.scheduler.network.new_cache(len(contexts))
        if common >= _WORTH_SHARING:
            shared = self._shared(contexts[0][:common])
            for row in range(len(contexts)):
                cache.copy_row(row, shared, 0)
        else:
            common = 0
        rests = [context[common:] for context in contexts]
        width, chunk = max(map(len, rests)), max(self.scheduler.chunk // max(len(contexts) // 2, 1), 32)
        logits = np.empty((len(contexts), self.scheduler.network.vocab_size), np.float32)
        for begin in range(0, width, chunk):
            rows = [row for row, rest in enumerate(rests) if len(rest) > begin]
            pieces = [rest[begin : begin + chunk] for rest in rests]
            last = [row for row in rows if len(rests[row]) <= begin + chunk]
            made = self.scheduler.forward(pieces, cache, [(row, len(pieces[row]) - 1) for row in last])
            if last:
                logits[last] = made
        return logits

    def _shared(self, ids: list[int]) -> KVCache:
        """A cache whose only row begins with `ids` and holds no more."""
        known = 0 if self._cache is None else _equal(self._ids, ids)
        if self._cache is not None and known == len(ids):
            return self._cache if known == len(self._ids) else self._cache.row(0, known)
        cache = self.scheduler.network.new_cache(1)
        if self._cache is not None and known >= _WORTH_SHARING:
            cache.copy_row(0, self._cache.row(0, known), 0)
        else:
            known = 0
        self.scheduler.prefill(ids[known:], cache)
        self._ids, self._cache = ids, cache
        return cache


def _common(rows: Sequence[list[int]]) -> int:
    """How many first ids all rows have in common, and all have at least one more."""
    return min(_equal(min(rows), max(rows)), min(map(len, rows)) - 1)  # first and last in order differ soonest


def _equal(one: list[int], other: list[int]) -> int:
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(place for place in range(size) if one[place] != other[place])
