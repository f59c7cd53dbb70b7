"""Which requests are computed next. It handles numbers of sequences and tokens only; an engine's owner thread calls it.

A job waits until there are free sequences and memory for it; lower `priority` first. Then it is in the network's KV
cache: a paged one (paged_batch.py), where prompts and sequences of any length share a forward pass, or arrays
(grouped_batch.py), where sequences of similar length do. Jobs without a KV cache are computed here.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from mindformers_glm.generation.cache import KVCache, PrefixStore
from mindformers_glm.generation.grouped_batch import GroupedBatch
from mindformers_glm.generation.interface import AdaptedNetwork, Network
from mindformers_glm.generation.job import Job
from mindformers_glm.generation.paged_batch import PagedBatch
from mindformers_glm.generation.turns import Turn, places_after_prompt, take_turns


class Batch(Protocol):
    """Jobs while they have sequences in a KV cache."""

    @property
    def jobs(self) -> list[Job]:
        """All of them."""

    def has_memory_for(self, job: Job) -> bool:
        """Whether a bounded cache has room for one more job, if need be after evicting from the prefix cache."""

    def add(self, job: Job) -> None:
        """Takes a job that no longer waits."""

    def step(self) -> None:
        """Computes pieces of prompts, and a token for every sequence that is being decoded."""

    def remove(self, job: Job) -> None:
        """Removes a job."""

    def keep_cancelled(self) -> None:
        """Puts the sequences of jobs that were cancelled during decoding into the prefix cache."""

    def clear(self) -> None:
        """Removes all jobs."""


class Scheduler:
    """Jobs in, steps out. `step_tokens` bounds the tokens of a step that prefills and decodes (paged_batch.py)."""

    def __init__(
        self, network: Network, *, max_num_seqs: int, chunk: int, prefixes: PrefixStore, step_tokens: int | None = None
    ) -> None:
        self.network, self.max_num_seqs, self.chunk, self.prefixes = network, max_num_seqs, chunk, prefixes
        self.step_tokens = step_tokens
        self.preemptions = 0  # jobs whose KV cache was given to others
        self.guessed = self.accepted = 0  # guesses of prompt lookup, and those that were right
        self._waiting: list[Job] = []
        self.uncached: list[Job] = []
        self._batch: Batch = PagedBatch(self) if hasattr(network, "blocks") else GroupedBatch(self)
        self._retired: set[int] = set()  # adapters to remove when no job uses them any more
        self._version: Hashable | None = None
        self._failures: list[BaseException] = []

    @property
    def has_work(self) -> bool:
        """True while there are jobs."""
        return bool(self._waiting or self.uncached or self._batch.jobs)

    def add(self, job: Job) -> None:
        """Takes a new job."""
        bisect.insort_right(self._waiting, job, key=_urgency)

    def step(self) -> None:
        """One step of all jobs that do not wait; an error ends the jobs of the part in which it was raised."""
        self._batch.keep_cancelled()
        for job in self._all():
            if job.ticket.is_cancelled:
                self._remove(job)
                self.end(job)
        self._admit()
        for job in list(self.uncached):
            self.guarded([job], self._step_uncached, job)
        self._batch.step()
        self._remove_adapters()

    def retire(self, adapter: int) -> None:
        """Removes an adapter from the network as soon as no job uses it."""
        self._retired.add(adapter)

    def abandon(self, arrived: list[Job], error: BaseException | None = None) -> None:
        """Ends every job as cancelled, or with an error."""
        for job in [*arrived, *self._all()]:
            self.end(job, error)
        self._waiting, self.uncached = [], []
        self._batch.clear()

    def take_failures(self) -> list[BaseException]:
        """The errors that ended jobs since the last call."""
        failures, self._failures = self._failures, []
        return failures

    # --- forwards ----------------------------------------------------------------------------------------------

    def new_cache(self, adapters: Sequence[int], *, scores: bool = False) -> KVCache:
        """An empty KV cache with a sequence for each of these adapters; with `scores` one for scores."""
        make = getattr(self.network, "new_score_cache", self.network.new_cache) if scores else self.network.new_cache
        cache: Any = make(len(adapters))
        if any(adapters):  # only an AdaptedNetwork has them
            cache.adapters[:] = adapters
        return cache

    def forward(self, rows: Sequence[Sequence[int]], cache: KVCache, wanted: Sequence[tuple[int, int]]) -> np.ndarray:
        """Appends ids to the sequences of the cache; returns logits at `wanted`, as (sequence, position in its ids)."""
        width = max(len(row) for row in rows)
        tokens = np.zeros((len(rows), width), np.int32)
        counts = np.asarray([len(row) for row in rows], np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        places = np.asarray([row * width + place for row, place in wanted], np.int32) if len(wanted) else None
        return self.network.forward(tokens, counts, cache, places)

    def prefill(self, ids: Sequence[int], cache: KVCache) -> tuple[np.ndarray, KVCache]:
        """Logits (1, V) after `ids`, which are appended piece by piece to a cache of one sequence; and that cache."""
        logits = np.zeros((0, 0), np.float32)
        for begin in range(0, len(ids), self.chunk):
            piece = ids[begin : begin + self.chunk]
            last = begin + len(piece) == len(ids)
            logits = self.forward([piece], cache, [(0, len(piece) - 1)] if last else [])
        return logits, cache

    # --- what Batch asks ---------------------------------------------------------------------------------------------

    def advance(self, turns: Sequence[Turn], logits: np.ndarray) -> list[Turn]:
        """Chooses the next tokens; returns the turns without those of jobs that an error has ended."""
        take_turns(turns, logits)
        for turn in turns:
            if turn.error is not None:
                self._remove(turn.job)
                self.end(turn.job, turn.error)
            elif turn.step is not None:
                turn.job.tokens = turn.step.tokens
        return [turn for turn in turns if turn.error is None]

    def put_back(self, job: Job) -> None:
        """Takes back a job that was preempted."""
        self.preemptions += 1
        bisect.insort_left(self._waiting, job, key=_urgency)

    def end(self, job: Job, error: BaseException | None = None) -> None:
        """Closes the ticket of a job."""
        error = job.ticket.close(error)
        if error is not None:
            self._failures.append(error)

    def keep(self, job: Job, cache: KVCache, row: int) -> None:
        """Puts the first result of a job into the prefix cache; its newest token has no keys and values yet."""
        if job.reuse_prefix and job.search.num_sequences == 1:
            ids = [*job.prompt, *job.search.results()[0].ids]
            self.prefixes.put(ids[: int(cache.lengths[row])], cache, row, job.adapter)

    def check_version(self) -> None:
        """Empties the prefix cache if weights have changed."""
        version = self.network.version()
        if version != self._version:
            self.prefixes.clear()
            self._version = version

    def guarded(self, jobs: list[Job], step: Callable[..., None], *arguments: Any) -> None:
        """Calls `step`; an error ends these jobs. No closures: a traceback would keep their values (failures.py)."""
        try:
            step(*arguments)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait for these jobs
            for job in jobs:
                self._remove(job)
                self.end(job, error)

    # --- stations ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        rows = sum(job.search.num_sequences for job in [*self.uncached, *self._batch.jobs])
        while self._waiting and rows + self._waiting[0].search.num_sequences <= self.max_num_seqs:
            if not self._batch.has_memory_for(self._waiting[0]):
                break
            job = self._waiting.pop(0)
            rows += job.search.num_sequences
            if job.use_past:
                self.guarded([job], self._batch.add, job)
            else:
                self.uncached.append(job)

    def _step_uncached(self, job: Job) -> None:
        """One token for the sequences of a job without KV cache: all tokens are computed again."""
        opened = len(job.tokens) or 1
        ids = [[*job.prompt, *(job.search.open_ids(row) if job.tokens else [])] for row in range(opened)]
        cache = self.new_cache([job.adapter] * opened)
        logits = self.forward(ids, cache, [(row, len(ids[row]) - 1) for row in range(opened)])
        places = list(range(opened)) if job.tokens else places_after_prompt(job, 0)
        for turn in self.advance([Turn(job, places)], logits):
            if turn.step is not None and not turn.step.parents:
                self.uncached.remove(job)
                self.end(job)

    def _remove_adapters(self) -> None:
        for adapter in self._retired - {job.adapter for job in self._all()}:
            self._retired.remove(adapter)
            self.prefixes.drop(adapter)
            cast(AdaptedNetwork, self.network).remove_adapter(adapter)

    def _remove(self, job: Job) -> None:
        for place in (self._waiting, self.uncached):
            if job in place:
                place.remove(job)
        self._batch.remove(job)

    def _all(self) -> list[Job]:
        return [*self._waiting, *self.uncached, *self._batch.jobs]


def _urgency(job: Job) -> int:
    return job.priority
