"""Jobs whose KV caches are arrays, with room for the longest sequence in each: sequences of similar length share one.

A job passes two stages: prefill (the prompt goes into a cache of its own, piece by piece), then a group that is decoded
together, one token for every sequence at each step. So padding is less than three quarters of a cache; a job whose
sequences become too long for its group moves to the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.job import Job
from mindformers_glm.generation.turns import Turn, places_after_prompt

if TYPE_CHECKING:
    from mindformers_glm.generation.scheduler import Scheduler

_FIRST_GROUP = 256  # longest sequence of the first group, in tokens; each next group has four times as many


class Group:
    """Sequences that are decoded together."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.jobs: list[Job] = []

    @property
    def used(self) -> set[int]:
        """Sequences of the cache that belong to jobs."""
        return {slot for job in self.jobs for slot in job.slots}

    def take_slots(self, count: int) -> list[int]:
        """Free sequences of the cache; it grows where there are too few, to a power of two."""
        free = sorted(set(range(self.cache.rows)) - self.used)
        if len(free) < count:
            self.cache.set_rows(power_of_two(self.cache.rows - len(free) + count))
            free = sorted(set(range(self.cache.rows)) - self.used)
        return free[:count]

    def follow(self, job: Job, parents: list[int]) -> None:
        """Sets the sequences of a job to those that its open ones continue: `parents`, among the ones that it has."""
        sources = [job.slots[parent] for parent in parents]
        if len(set(sources)) == len(sources) and sources != job.slots and len(sources) < len(job.slots):
            job.slots = sources  # finished sequences only leave; nothing is copied
            return
        short = len(sources) - len(job.slots)
        targets = job.slots + self.take_slots(short) if short > 0 else job.slots[: len(sources)]
        self.cache.reorder(targets, sources)
        job.slots = targets

    def tidy(self) -> None:
        """Empties unused sequences, and frees memory when three quarters are unused."""
        self.cache.forget(set(range(self.cache.rows)) - self.used)
        used = sorted(self.used)
        rows = power_of_two(len(used))
        if rows * 4 > self.cache.rows:
            return
        self.cache.reorder(range(len(used)), used)
        place = {slot: index for index, slot in enumerate(used)}
        for job in self.jobs:
            job.slots = [place[slot] for slot in job.slots]
        self.cache.set_rows(rows)


class GroupedBatch:
    """See scheduler.Batch."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._prompts: list[Job] = []
        self._groups: dict[int, Group] = {}

    @property
    def jobs(self) -> list[Job]:
        """See Batch."""
        return [*self._prompts, *(job for group in self._groups.values() for job in group.jobs)]

    def has_memory_for(self, job: Job) -> bool:
        """See Batch; a cache in arrays has no bound."""
        return True

    def add(self, job: Job) -> None:
        """See Batch."""
        self._prompts.append(job)
        if job.reuse_prefix and self._scheduler.prefixes.capacity:
            self._scheduler.check_version()
            job.cache = self._scheduler.prefixes.take(job.prompt, job.adapter)[1]

    def step(self) -> None:
        """See Batch: one forward pass over prompts, and one for each group."""
        if self._prompts:
            step, jobs = self._next_prompts()
            self._scheduler.guarded(jobs, step, jobs)
        for level in sorted(self._groups):
            group = self._groups[level]
            self._scheduler.guarded(list(group.jobs), self._step_group, level)

    def remove(self, job: Job) -> None:
        """See Batch."""
        if job in self._prompts:
            self._prompts.remove(job)
        for level in list(self._groups):
            if job in self._groups[level].jobs:
                self._groups[level].jobs.remove(job)
                if not self._groups[level].jobs:
                    del self._groups[level]

    def keep_cancelled(self) -> None:
        """See Batch."""
        for group in self._groups.values():
            for job in group.jobs:
                if job.ticket.is_cancelled:
                    self._scheduler.keep(job, group.cache, job.slots[0])

    def clear(self) -> None:
        """See Batch."""
        self._prompts, self._groups = [], {}

    def _next_prompts(self) -> tuple[Callable[[list[Job]], None], list[Job]]:
        """The next piece of the first prompt, together with short prompts that have not begun."""
        first, chunk = self._prompts[0], self._scheduler.chunk
        if first.done or len(first.prompt) > chunk:
            return self._step_prompt, [first]
        jobs: list[Job] = []
        width = 0
        for job in self._prompts:
            fits = not job.done and max(width, len(job.prompt)) * (len(jobs) + 1) <= max(chunk, len(first.prompt))
            if fits:
                jobs.append(job)
                width = max(width, len(job.prompt))
        return self._step_prompts, jobs

    def _step_prompt(self, jobs: list[Job]) -> None:
        job, forward = jobs[0], self._scheduler.forward
        if job.cache is None:
            job.cache = self._scheduler.new_cache([job.adapter])
        piece = job.prompt[job.done : job.done + self._scheduler.chunk]
        last = job.done + len(piece) == len(job.prompt)
        logits = forward([piece], job.cache, [(0, len(piece) - 1)] if last else [])
        if last:
            self._begin([job], logits, job.cache)

    def _step_prompts(self, jobs: list[Job]) -> None:
        cache = self._scheduler.new_cache([job.adapter for job in jobs])
        prompts = [job.prompt for job in jobs]
        places = [(row, len(prompt) - 1) for row, prompt in enumerate(prompts)]
        self._begin(jobs, self._scheduler.forward(prompts, cache, places), cache)

    def _begin(self, jobs: list[Job], logits: np.ndarray, cache: KVCache) -> None:
        """The first tokens of the jobs whose prompts `cache` now holds."""
        turns = [Turn(job, places_after_prompt(job, row)) for row, job in enumerate(jobs)]
        for turn in self._scheduler.advance(turns, logits):
            self._scheduler.guarded([turn.job], self._place, turn, cache, jobs.index(turn.job))

    def _place(self, turn: Turn, cache: KVCache, row: int) -> None:
        """Moves a job that has its first tokens into a group."""
        job, step = turn.job, turn.step
        assert step is not None
        self._prompts.remove(job)
        if not step.parents:
            self._scheduler.keep(job, cache, row)
            self._scheduler.end(job)
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
        logits = self._scheduler.forward(rows, group.cache, [(slot, 0) for slot in used])
        place = {slot: index for index, slot in enumerate(used)}
        turns = [Turn(job, [place[slot] for slot in job.slots]) for job in group.jobs]
        for turn in self._scheduler.advance(turns, logits):
            self._scheduler.guarded([turn.job], self._continue, level, turn)
        self._tidy(level)

    def _continue(self, level: int, turn: Turn) -> None:
        group, job, step = self._groups[level], turn.job, turn.step
        assert step is not None
        if not step.parents:
            self._scheduler.keep(job, group.cache, job.slots[0])
            group.jobs.remove(job)
            self._scheduler.end(job)
            return
        group.follow(job, step.parents)
        length = int(group.cache.lengths[job.slots[0]])
        if _level(length + 1) != level:
            slots = job.slots
            group.jobs.remove(job)
            self._join(job, group.cache, slots)

    def _join(self, job: Job, cache: KVCache, sources: list[int]) -> None:
        """Copies the sequences of a job into the group for their length."""
        level = _level(int(cache.lengths[sources[0]]) + 1)
        group = self._groups.get(level)
        if group is None and cache.rows == 1 and len(sources) == 1:
            group = self._groups[level] = Group(cache)  # a group of one job: its cache becomes the group's
            job.slots = [0]
        else:
            if group is None:
                group = self._groups[level] = Group(self._scheduler.network.new_cache(power_of_two(len(sources))))
            job.slots = group.take_slots(len(sources))
            for target, source in zip(job.slots, sources, strict=True):
                group.cache.copy_row(target, cache, source)
        group.jobs.append(job)

    def _tidy(self, level: int) -> None:
        group = self._groups.get(level)
        if group is not None and group.jobs:
            group.tidy()
        elif group is not None:
            del self._groups[level]


def power_of_two(count: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(count - 1, 0).bit_length()


def _level(length: int) -> int:
    """The number of the group for sequences of this length: up to 256, 1024, 4096, ... tokens."""
    level, limit = 0, _FIRST_GROUP
    while length > limit:
        level, limit = level + 1, limit * 4
    return level
