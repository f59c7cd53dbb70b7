"""Which requests go through the network next. Numbers of sequences and tokens only; an engine's owner thread calls it.

A job waits until there are places and memory for it; the lower its `priority`, the sooner. Then it has its
place in the network's cache: in blocks (paged_rows.py), where prompts and answers of any length share a forward, or in
arrays (grouped_rows.py), where sequences of similar length do. Jobs without a cache are computed here.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from mindformers_glm.generation.cache import KVCache, PrefixStore
from mindformers_glm.generation.grouped_rows import GroupedRows
from mindformers_glm.generation.interface import AdaptedNetwork, Network
from mindformers_glm.generation.job import Job
from mindformers_glm.generation.paged_rows import PagedRows
from mindformers_glm.generation.turns import Turn, places_after_prompt, take_turns


class Rows(Protocol):
    """Where jobs are while they have places in a cache."""

    @property
    def jobs(self) -> list[Job]:
        """All of them."""

    def has_memory_for(self, job: Job) -> bool:
        """Whether a bounded cache holds one more job, if need be after giving up kept prefixes."""

    def add(self, job: Job) -> None:
        """Takes a job that was let in."""

    def step(self) -> None:
        """A piece of prompts, a token for every sequence that has its prompt."""

    def remove(self, job: Job) -> None:
        """Forgets a job."""

    def keep_cancelled(self) -> None:
        """Remembers the caches of jobs that were cancelled among their answers."""

    def clear(self) -> None:
        """Forgets all jobs."""


class Scheduler:
    """Jobs in, steps out. `step_tokens` bounds the tokens of a step that prompts and answers share (paged_rows.py)."""

    def __init__(
        self, network: Network, *, max_num_seqs: int, chunk: int, prefixes: PrefixStore, step_tokens: int | None = None
    ) -> None:
        self.network, self.max_num_seqs, self.chunk, self.prefixes = network, max_num_seqs, chunk, prefixes
        self.step_tokens = step_tokens
        self.preemptions = 0  # jobs that had to give their sequences up
        self.guessed = self.accepted = 0  # tokens that were looked up, and of these such as were right
        self._waiting: list[Job] = []
        self.uncached: list[Job] = []
        self._rows: Rows = PagedRows(self) if hasattr(network, "blocks") else GroupedRows(self)
        self._retired: set[int] = set()  # adapters that go when no job has them any more
        self._version: Hashable | None = None
        self._failures: list[BaseException] = []

    @property
    def has_work(self) -> bool:
        """True while a job is anywhere here."""
        return bool(self._waiting or self.uncached or self._rows.jobs)

    def add(self, job: Job) -> None:
        """Takes a new job."""
        bisect.insort_right(self._waiting, job, key=_urgency)

    def step(self) -> None:
        """One step of everything that is let in; an error ends the jobs that it concerns."""
        self._rows.keep_cancelled()
        for job in self._all():
            if job.ticket.is_cancelled:
                self._remove(job)
                self.end(job)
        self._admit()
        for job in list(self.uncached):
            self.guarded([job], self._step_uncached, job)
        self._rows.step()
        self._remove_adapters()

    def retire(self, adapter: int) -> None:
        """Lets the network forget an adapter when the jobs that have it are over."""
        self._retired.add(adapter)

    def abandon(self, arrived: list[Job], error: BaseException | None = None) -> None:
        """Ends every job as cancelled, or with an error."""
        for job in [*arrived, *self._all()]:
            self.end(job, error)
        self._waiting, self.uncached = [], []
        self._rows.clear()

    def take_failures(self) -> list[BaseException]:
        """The errors that ended jobs since the last call."""
        failures, self._failures = self._failures, []
        return failures

    # --- forwards ----------------------------------------------------------------------------------------------

    def new_cache(self, adapters: Sequence[int], *, scores: bool = False) -> KVCache:
        """An empty cache with a sequence for each of these adapters; with `scores` one for scores."""
        make = getattr(self.network, "new_score_cache", self.network.new_cache) if scores else self.network.new_cache
        cache: Any = make(len(adapters))
        if any(adapters):  # only an AdaptedNetwork has them
            cache.adapters[:] = adapters
        return cache

    def forward(self, rows: Sequence[Sequence[int]], cache: KVCache, wanted: Sequence[tuple[int, int]]) -> np.ndarray:
        """Logits at `wanted` (sequence, place) of sequences of ids, which are appended to the cache."""
        width = max(len(row) for row in rows)
        tokens = np.zeros((len(rows), width), np.int32)
        counts = np.asarray([len(row) for row in rows], np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        places = np.asarray([row * width + place for row, place in wanted], np.int32) if len(wanted) else None
        return self.network.forward(tokens, counts, cache, places)

    def prefill(self, ids: Sequence[int], cache: KVCache) -> tuple[np.ndarray, KVCache]:
        """Logits (1, V) after `ids`, which go into the cache of one sequence piece by piece."""
        logits = np.zeros((0, 0), np.float32)
        for begin in range(0, len(ids), self.chunk):
            piece = ids[begin : begin + self.chunk]
            last = begin + len(piece) == len(ids)
            logits = self.forward([piece], cache, [(0, len(piece) - 1)] if last else [])
        return logits, cache

    # --- what Rows asks ----------------------------------------------------------------------------------------------

    def advance(self, turns: Sequence[Turn], logits: np.ndarray) -> list[Turn]:
        """The next tokens of these; returns the turns of jobs that none of their own functions has ended."""
        take_turns(turns, logits)
        for turn in turns:
            if turn.error is not None:
                self._remove(turn.job)
                self.end(turn.job, turn.error)
            elif turn.step is not None:
                turn.job.tokens = turn.step.tokens
        return [turn for turn in turns if turn.error is None]

    def put_back(self, job: Job) -> None:
        """Takes a job again that had to give its sequences up."""
        self.preemptions += 1
        bisect.insort_left(self._waiting, job, key=_urgency)

    def end(self, job: Job, error: BaseException | None = None) -> None:
        """The last word to the one who waits."""
        error = job.ticket.close(error)
        if error is not None:
            self._failures.append(error)

    def keep(self, job: Job, cache: KVCache, row: int) -> None:
        """Remembers the cache of the first result; its newest token was never computed."""
        if job.reuse_prefix and job.search.num_rows == 1:
            ids = [*job.prompt, *job.search.results()[0].ids]
            self.prefixes.put(ids[: int(cache.lengths[row])], cache, row, job.adapter)

    def check_version(self) -> None:
        """Forgets kept prefixes when weights have changed since."""
        version = self.network.version()
        if version != self._version:
            self.prefixes.clear()
            self._version = version

    def guarded(self, jobs: list[Job], step: Callable[..., None], *arguments: Any) -> None:
        """A step, whose error ends these jobs. No closures here: a traceback would keep theirs (see failures.py)."""
        try:
            step(*arguments)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait for these jobs
            for job in jobs:
                self._remove(job)
                self.end(job, error)

    # --- stations ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        rows = sum(job.search.num_rows for job in [*self.uncached, *self._rows.jobs])
        while self._waiting and rows + self._waiting[0].search.num_rows <= self.max_num_seqs:
            if not self._rows.has_memory_for(self._waiting[0]):
                break
            job = self._waiting.pop(0)
            rows += job.search.num_rows
            if job.use_past:
                self.guarded([job], self._rows.add, job)
            else:
                self.uncached.append(job)

    def _step_uncached(self, job: Job) -> None:
        """One token for the sequences of a job without a cache: everything is computed again."""
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
        self._rows.remove(job)

    def _all(self) -> list[Job]:
        return [*self._waiting, *self.uncached, *self._rows.jobs]


def _urgency(job: Job) -> int:
    return job.priority
