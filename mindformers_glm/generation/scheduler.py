"""Which rows go through the network next. Numbers of rows and tokens only; the owner thread of an engine calls it.

Jobs pass three stations: waiting, prompt (its tokens go into a cache of its own, piece by piece), and a group that
gets one token for every row at each step. A group holds rows of similar length in one cache, so that padding stays
below a factor of four; a job that outgrows its group moves on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import numpy as np

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.cache import KVCache, PrefixStore
from mindformers_glm.generation.interface import AdaptedNetwork, Network, Step
from mindformers_glm.generation.job import Job
from mindformers_glm.generation.paged_cache import BLOCK

_FIRST_GROUP = 256  # tokens; the groups after it hold four times as many each


class _Group:
    """Rows that step together."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.jobs: list[Job] = []

    @property
    def used(self) -> set[int]:
        return {slot for job in self.jobs for slot in job.slots}

    def take_slots(self, count: int) -> list[int]:
        """Free rows, made where there are none: the number of rows is a power of two."""
        free = sorted(set(range(self.cache.rows)) - self.used)
        if len(free) < count:
            self.cache.set_rows(_power_of_two(self.cache.rows - len(free) + count))
            free = sorted(set(range(self.cache.rows)) - self.used)
        return free[:count]

    def compact(self) -> None:
        """Gives rows back when three quarters are unused."""
        used = sorted(self.used)
        rows = _power_of_two(len(used))
        if rows * 4 > self.cache.rows:
            return
        self.cache.reorder(range(len(used)), used)
        place = {slot: index for index, slot in enumerate(used)}
        for job in self.jobs:
            job.slots = [place[slot] for slot in job.slots]
        self.cache.set_rows(rows)


class Scheduler:
    """Jobs in, steps out."""

    def __init__(self, network: Network, *, max_rows: int, chunk: int, prefixes: PrefixStore) -> None:
        self.network, self.max_rows, self.chunk, self.prefixes = network, max_rows, chunk, prefixes
        self._waiting: deque[Job] = deque()
        self._prompts: list[Job] = []
        self._uncached: list[Job] = []
        self._groups: dict[int, _Group] = {}
        self._retired: set[int] = set()  # adapters that go when no job has them any more
        self._version: Hashable | None = None
        self._failures: list[BaseException] = []

    @property
    def has_work(self) -> bool:
        """True while a job is anywhere here."""
        return bool(self._waiting or self._prompts or self._uncached or self._groups)

    def add(self, job: Job) -> None:
        """Takes a new job."""
        self._waiting.append(job)

    def step(self) -> None:
        """One forward over prompts, one token for every row; an error ends the jobs that it concerns."""
        self._drop_cancelled()
        self._admit()
        if self._prompts:
            step, jobs = self._next_prompts()
            self._guarded(jobs, step, jobs)
        for job in list(self._uncached):
            self._guarded([job], self._step_uncached, job)
        for level in sorted(self._groups):
            group = self._groups[level]
            self._guarded(list(group.jobs), self._step_group, level)
        self._remove_adapters()

    def retire(self, adapter: int) -> None:
        """Lets the network forget an adapter when the jobs that have it are over."""
        self._retired.add(adapter)

    def abandon(self, arrived: list[Job], error: BaseException | None = None) -> None:
        """Ends every job as cancelled, or with an error."""
        for job in [*arrived, *self._all()]:
            self._end(job, error)
        self._waiting.clear()
        self._prompts, self._uncached, self._groups = [], [], {}

    def take_failures(self) -> list[BaseException]:
        """The errors that ended jobs since the last call."""
        failures, self._failures = self._failures, []
        return failures

    def new_cache(self, adapters: Sequence[int], *, scores: bool = False) -> KVCache:
        """An empty cache with a row for each of these adapters; with `scores` one for scores."""
        make = getattr(self.network, "new_score_cache", self.network.new_cache) if scores else self.network.new_cache
        cache: Any = make(len(adapters))
        if any(adapters):  # only an AdaptedNetwork has them
            cache.adapters[:] = adapters
        return cache

    # --- forwards ----------------------------------------------------------------------------------------------

    def forward(self, rows: Sequence[Sequence[int]], cache: KVCache, wanted: Sequence[tuple[int, int]]) -> np.ndarray:
        """Logits at `wanted` (row, place) of rows of ids, which are appended to the cache."""
        width = max(len(row) for row in rows)
        tokens = np.zeros((len(rows), width), np.int32)
        counts = np.asarray([len(row) for row in rows], np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        places = np.asarray([row * width + place for row, place in wanted], np.int32) if len(wanted) else None
        return self.network.forward(tokens, counts, cache, places)

    def prefill(self, ids: Sequence[int], cache: KVCache) -> tuple[np.ndarray, KVCache]:
        """Logits (1, V) after `ids`, which go into the one-row cache piece by piece."""
        logits = np.zeros((0, 0), np.float32)
        for begin in range(0, len(ids), self.chunk):
            piece = ids[begin : begin + self.chunk]
            last = begin + len(piece) == len(ids)
            logits = self.forward([piece], cache, [(0, len(piece) - 1)] if last else [])
        return logits, cache

    # --- stations ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        rows = sum(job.search.num_rows for job in self._running())
        while self._waiting and rows + self._waiting[0].search.num_rows <= self.max_rows:
            if not self._has_memory_for(self._waiting[0]):
                break
            job = self._waiting.popleft()
            rows += job.search.num_rows
            if not job.use_past:
                self._uncached.append(job)
                continue
            self._prompts.append(job)
            if job.reuse_prefix and self.prefixes.capacity:
                self._guarded([job], self._take_prefix, job)

    def _has_memory_for(self, job: Job) -> bool:
        """Whether a bounded cache holds this job beside those that run, if need be after giving up kept prefixes."""
        pool = getattr(self.network, "blocks", None)
        if pool is None or pool.max_blocks is None:
            return True
        running = self._running()
        wanted = job.blocks + sum(other.blocks for other in running)
        while wanted + self.prefixes.blocks(BLOCK) > pool.max_blocks and self.prefixes.give_up_oldest():
            pass
        return wanted + self.prefixes.blocks(BLOCK) <= pool.max_blocks

    def _take_prefix(self, job: Job) -> None:
        """The longest beginning of a prompt in the prefix cache, if the weights have not changed since."""
        version = self.network.version()
        if version != self._version:
            self.prefixes.clear()
            self._version = version
        job.cache = self.prefixes.take(job.prompt, job.adapter)[1]

    def _next_prompts(self) -> tuple[Callable[[list[Job]], None], list[Job]]:
        """The first prompt's next piece, with other prompts that are short and just begin."""
        first = self._prompts[0]
        if first.done or len(first.prompt) > self.chunk:
            return self._step_prompt, [first]
        jobs: list[Job] = []
        width = 0
        for job in self._prompts:
            fits = not job.done and max(width, len(job.prompt)) * (len(jobs) + 1) <= max(self.chunk, len(first.prompt))
            if fits:
                jobs.append(job)
                width = max(width, len(job.prompt))
        return self._step_prompts, jobs

    def _step_prompt(self, jobs: list[Job]) -> None:
        job = jobs[0]
        if job.cache is None:
            job.cache = self.new_cache([job.adapter])
        piece = job.prompt[job.done : job.done + self.chunk]
        last = job.done + len(piece) == len(job.prompt)
        logits = self.forward([piece], job.cache, [(0, len(piece) - 1)] if last else [])
        if last:
            self._begin(job, logits, job.cache, 0)

    def _step_prompts(self, jobs: list[Job]) -> None:
        cache = self.new_cache([job.adapter for job in jobs])
        prompts = [job.prompt for job in jobs]
        logits = self.forward(prompts, cache, [(row, len(prompt) - 1) for row, prompt in enumerate(prompts)])
        for row, job in enumerate(jobs):
            self._guarded([job], self._begin, job, logits[row : row + 1], cache, row)

    def _begin(self, job: Job, logits: np.ndarray, cache: KVCache, row: int) -> None:
        """The first tokens of a job whose prompt is in `cache`, and its place in a group."""
        step = self._advance(job, logits)
        if step is None:
            return
        self._prompts.remove(job)
        if not step.parents:
            self._keep(job, cache, row)
            self._end(job)
            return
        self._join(job, cache, [row] * len(step.parents))
        job.cache = None

    def _step_group(self, level: int) -> None:
        group = self._groups[level]
        rows: list[list[int]] = [[] for _ in range(group.cache.rows)]
        for job in group.jobs:
            for slot, token in zip(job.slots, job.tokens, strict=True):
                rows[slot] = [token]
        used = sorted(group.used)
        logits = self.forward(rows, group.cache, [(slot, 0) for slot in used])
        place = {slot: index for index, slot in enumerate(used)}
        for job in list(group.jobs):
            step = self._advance(job, logits[[place[slot] for slot in job.slots]])
            if step is not None:
                self._guarded([job], self._continue, level, job, step)
        self._tidy(level)

    def _continue(self, level: int, job: Job, step: Step) -> None:
        group = self._groups[level]
        if not step.parents:
            self._keep(job, group.cache, job.slots[0])
            group.jobs.remove(job)
            self._end(job)
            return
        sources = [job.slots[parent] for parent in step.parents]
        if len(set(sources)) == len(sources) and sources != job.slots and len(sources) < len(job.slots):
            job.slots = sources  # rows that ended leave; nothing moves
        else:
            short = len(sources) - len(job.slots)
            targets = job.slots + group.take_slots(short) if short > 0 else job.slots[: len(sources)]
            group.cache.reorder(targets, sources)
            job.slots = targets
        length = int(group.cache.lengths[job.slots[0]])
        if _level(length + 1) != level:
            slots = job.slots
            group.jobs.remove(job)
            self._join(job, group.cache, slots)

    def _join(self, job: Job, cache: KVCache, sources: list[int]) -> None:
        """Puts the rows of a job into the group for their length."""
        level = _level(int(cache.lengths[sources[0]]) + 1)
        group = self._groups.get(level)
        if group is None and cache.rows == 1 and len(sources) == 1:
            group = self._groups[level] = _Group(cache)  # alone: its cache is the group's
            job.slots = [0]
        else:
            if group is None:
                group = self._groups[level] = _Group(self.network.new_cache(_power_of_two(len(sources))))
            job.slots = group.take_slots(len(sources))
            for target, source in zip(job.slots, sources, strict=True):
                group.cache.copy_row(target, cache, source)
        group.jobs.append(job)

    def _step_uncached(self, job: Job) -> None:
        """One token for the rows of a job without a cache: everything is computed again."""
        opened = len(job.tokens) or 1
        ids = [[*job.prompt, *(job.search.open_ids(row) if job.tokens else [])] for row in range(opened)]
        cache = self.new_cache([job.adapter] * opened)
        logits = self.forward(ids, cache, [(row, len(ids[row]) - 1) for row in range(opened)])
        step = self._advance(job, logits)
        if step is not None and not step.parents:
            self._uncached.remove(job)
            self._end(job)

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _advance(self, job: Job, logits: np.ndarray) -> Step | None:
        """The next tokens of a job; None when one of its own functions failed, which ends this job alone."""
        try:
            check_numbers(logits)
            step = job.search.advance(logits)
            job.tokens = step.tokens
            for event in step.events:
                job.ticket.push(event)
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            self._remove(job)
            self._end(job, error)
            return None
        return step

    def _end(self, job: Job, error: BaseException | None = None) -> None:
        """The last word to the one who waits."""
        error = job.ticket.close(error)
        if error is not None:
            self._failures.append(error)

    def _keep(self, job: Job, cache: KVCache, row: int) -> None:
        """Remembers the cache of the first result; its newest token was never computed."""
        if job.reuse_prefix and job.search.num_rows == 1:
            ids = [*job.prompt, *job.search.results()[0].ids]
            self.prefixes.put(ids[: int(cache.lengths[row])], cache, row, job.adapter)

    def _remove_adapters(self) -> None:
        for adapter in self._retired - {job.adapter for job in self._all()}:
            self._retired.remove(adapter)
            self.prefixes.drop(adapter)
            cast(AdaptedNetwork, self.network).remove_adapter(adapter)

    def _tidy(self, level: int) -> None:
        group = self._groups.get(level)
        if group is not None and group.jobs:
            group.cache.forget(set(range(group.cache.rows)) - group.used)
            group.compact()
        elif group is not None:
            del self._groups[level]

    def _drop_cancelled(self) -> None:
        for group in self._groups.values():
            for job in group.jobs:
                if job.ticket.is_cancelled:
                    self._keep(job, group.cache, job.slots[0])
        for job in self._all():
            if job.ticket.is_cancelled:
                self._remove(job)
                self._end(job)

    def _remove(self, job: Job) -> None:
        for place in (self._waiting, self._prompts, self._uncached):
            if job in place:
                place.remove(job)
        for level in list(self._groups):
            if job in self._groups[level].jobs:
                self._groups[level].jobs.remove(job)
                if not self._groups[level].jobs:
                    del self._groups[level]

    def _guarded(self, jobs: list[Job], step: Callable[..., None], *arguments: Any) -> None:
        """A step, whose error ends these jobs. No closures here: a traceback would keep theirs (see failures.py)."""
        try:
            step(*arguments)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait for these jobs
            for job in jobs:
                self._remove(job)
                self._end(job, error)

    def _running(self) -> list[Job]:
        grouped = [job for group in self._groups.values() for job in group.jobs]
        return [*self._prompts, *self._uncached, *grouped]

    def _all(self) -> list[Job]:
        return [*self._waiting, *self._running()]


def check_numbers(logits: np.ndarray) -> None:
    """Passes when logits are numbers.

    Raises:
        GenerationError: some are not.
    """
    if np.isnan(logits.max()):
        raise GenerationError("the network's output is not a number: the weights are damaged, or float16 overflowed")


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def _level(length: int) -> int:
    """Number of the group for rows of this length: up to 256, 1024, 4096, ... tokens."""
    level, limit = 0, _FIRST_GROUP
    while length > limit:
        level, limit = level + 1, limit * 4
    return level
