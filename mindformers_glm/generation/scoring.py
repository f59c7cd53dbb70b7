"""Log-probabilities of continuations for many contexts at once. Shapes: R contexts of a batch, V vocabulary.

Contexts with a common prefix (the examples of a subject) share it: it is computed once and copied into every sequence.
Where every continuation is a single id, one forward pass of the context scores them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.sampling import best_ids, check_numbers, log_probabilities
from mindformers_glm.generation.scheduler import Scheduler

_WORTH_SHARING = 16  # ids: a shorter common prefix is computed with the rest


class Score(NamedTuple):
    """Log-probability of each token of a continuation, and whether greedy search would choose exactly these tokens.

    `best` has for each token the best ids at its position with their log-probabilities, where they were asked for.
    """

    logprobs: np.ndarray
    is_greedy: bool
    best: list[tuple[tuple[int, float], ...]] | None = None


class Scorer:
    """Scores batches of contexts; keeps the common prefix of the last batch for the next one."""

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
        cache = self.scheduler.new_cache([0] * len(contexts), scores=True)
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
        """A cache whose only sequence is `ids`."""
        known = 0 if self._cache is None else _equal(self._ids, ids)
        if self._cache is not None and known == len(ids):
            return self._cache if known == len(self._ids) else self._cache.row(0, known)
        cache = self.scheduler.new_cache([0], scores=True)
        if self._cache is not None and known >= _WORTH_SHARING:
            cache.copy_row(0, self._cache.row(0, known), 0)
        else:
            known = 0
        self.scheduler.prefill(ids[known:], cache)
        self._ids, self._cache = ids, cache
        return cache


def score(
    scheduler: Scheduler, context: list[int], continuations: list[list[int]], top: int = 0, adapter: int = 0
) -> list[Score]:
    """See Engine.score; the continuations are computed as one batch, each after a copy of the context's cache."""
    first, cache = scheduler.prefill(context, scheduler.new_cache([adapter], scores=True))
    check_numbers(first)
    scores: list[Score] = []
    for begin in range(0, len(continuations), scheduler.max_num_seqs):
        scores += _score_rows(scheduler, first, cache, continuations[begin : begin + scheduler.max_num_seqs], top)
    return scores


def _score_rows(
    scheduler: Scheduler, first: np.ndarray, context: KVCache, rows: list[list[int]], top: int
) -> list[Score]:
    tops: list[list[tuple[tuple[int, float], ...]]] = [best_ids(first, top) for _ in rows]
    logprobs = [[log_probabilities(first, np.asarray(row[:1]))] for row in rows]
    greedy = [row[0] == int(first[0].argmax()) for row in rows]
    width = max(len(row) for row in rows) - 1
    cache = scheduler.new_cache([0] * len(rows), scores=True)
    if width:
        for target in range(len(rows)):
            cache.copy_row(target, context, 0)
    for begin in range(0, width, scheduler.chunk):
        pieces = [row[begin : min(begin + scheduler.chunk, len(row) - 1)] for row in rows]
        wanted = [(index, place) for index, piece in enumerate(pieces) for place in range(len(piece))]
        logits = scheduler.forward(pieces, cache, wanted)
        check_numbers(logits)
        targets = np.asarray([rows[index][begin + place + 1] for index, place in wanted])
        found = log_probabilities(logits, targets)
        best = logits.argmax(-1) == targets
        for index in range(len(rows)):
            mine = [place for place, (owner, _) in enumerate(wanted) if owner == index]
            logprobs[index].append(found[mine])
            tops[index] += best_ids(logits[mine], top)
            greedy[index] = greedy[index] and bool(best[mine].all())
    rows_of = zip(logprobs, greedy, tops, strict=True)
    return [Score(np.concatenate(parts), flag, best if top else None) for parts, flag, best in rows_of]


def _common(rows: Sequence[list[int]]) -> int:
    """Length of the common prefix of all sequences, at least one id shorter than each of them."""
    return min(_equal(min(rows), max(rows)), min(map(len, rows)) - 1)  # least and greatest have the shortest one


def _equal(one: list[int], other: list[int]) -> int:
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(place for place in range(size) if one[place] != other[place])
