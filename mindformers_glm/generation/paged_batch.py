"""Jobs over a paged KV cache: every sequence has its own length, so one forward pass serves prefill and decoding.

A step computes the newest token of every sequence that is being decoded, and with the rest of its tokens pieces of
prompts (chunked prefill): so a long prompt delays each decoded token by a bounded time. While nothing is being decoded,
pieces have `chunk` tokens.

Of several prompts that one goes first that would be finished first if all were computed in turn: `due` is the number of
prompt tokens that had been computed when it arrived, plus its own length. So short prompts pass a long one, which waits
no longer than it takes itself. Prompts with a common prefix share its blocks, which the first of them computes.

Guesses of prompt lookup (lookup.py) are checked in the same forward pass, where the network says that this does not
change any number, and no prompt needs the time.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mindformers_glm.generation.cache import common_beginning
from mindformers_glm.generation.grouped_batch import Group
from mindformers_glm.generation.job import Job
from mindformers_glm.generation.lookup import Lookup, StepCost
from mindformers_glm.generation.paged_cache import BLOCK
from mindformers_glm.generation.search import Samples
from mindformers_glm.generation.turns import Turn, places_after_prompt

if TYPE_CHECKING:
    from mindformers_glm.generation.scheduler import Scheduler

# Prompt tokens in a step that also decodes: the step then takes about three times as long as without them, on CPUs
# where reading the weights takes as long as multiplying them with some 15 to 20 tokens.
_LEAST_PIECE, _PIECE_PER_ANSWER = 16, 5


class PagedBatch:
    """See scheduler.Batch."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._network: Any = scheduler.network
        self._group: Group | None = None
        self._prompts: list[Job] = []  # jobs whose prompts are not computed yet
        self._computed = 0  # prompt tokens computed so far
        self._cost = StepCost()

    @property
    def jobs(self) -> list[Job]:
        """See Batch."""
        return [] if self._group is None else list(self._group.jobs)

    def has_memory_for(self, job: Job) -> bool:
        """See Batch: beside the blocks that running jobs may still take."""
        pool = self._network.blocks
        if pool.max_blocks is None:
            return True
        wanted = self._wanted_blocks(job) + sum(other.blocks for other in self._scheduler.uncached)
        wanted += sum(self._missing_blocks(other) for other in self.jobs)
        while wanted > pool.max_blocks - pool.used_blocks and self._scheduler.prefixes.give_up_oldest():
            pass
        is_alone = not (self.jobs or self._scheduler.uncached)  # nothing else runs: it gets all there is
        return is_alone or wanted <= pool.max_blocks - pool.used_blocks

    def add(self, job: Job) -> None:
        """See Batch."""
        group = self._group
        if group is None:
            group = self._group = Group(self._scheduler.new_cache([0]))
        job.slots = group.take_slots(1)
        group.jobs.append(job)
        self._prompts.append(job)
        cache: Any = group.cache
        cache.forget(job.slots)
        cache.adapters[job.slots[0]] = job.adapter
        begun = 0
        if job.reuse_prefix and self._scheduler.prefixes.capacity:
            begun = self._begin_with_others(job)
        job.due = self._computed + len(job.prompt) - begun

    def step(self) -> None:
        """See Batch."""
        group = self._group
        if group is None:
            return
        answers = [job for job in group.jobs if job.tokens]
        room = self._scheduler.chunk
        if answers:
            taken = sum(len(job.tokens) for job in answers)
            given = self._scheduler.step_tokens
            beside = _LEAST_PIECE + _PIECE_PER_ANSWER * taken if given is None else given - taken
            room = min(room, max(beside, _LEAST_PIECE))
        pieces = self._pieces(room)
        answers, pieces = self._with_memory(answers, pieces)
        jobs = answers + [job for job, _ in pieces]
        self._scheduler.guarded(jobs, self._forward, answers, pieces)
        self._tidy()

    def remove(self, job: Job) -> None:
        """See Batch."""
        if self._group is not None and job in self._group.jobs:
            followers = sorted((other for other in self._prompts if other.leader is job), key=_order)
            for place, other in enumerate(followers):
                self._take_beginning(other, job)
                other.leader = followers[0] if place else None
            self._group.jobs.remove(job)
            if job in self._prompts:
                self._prompts.remove(job)

    def keep_cancelled(self) -> None:
        """See Batch."""
        if self._group is not None:
            for job in self._group.jobs:
                if job.ticket.is_cancelled and job.tokens:
                    self._scheduler.keep(job, self._group.cache, job.slots[0])

    def clear(self) -> None:
        """See Batch."""
        self._group, self._prompts = None, []

    # --- prompts -----------------------------------------------------------------------------------------------

    def _pieces(self, room: int) -> list[tuple[Job, list[int]]]:
        """The next pieces of prompts, at most `room` tokens together."""
        found: list[tuple[Job, list[int]]] = []
        for job in sorted(self._prompts, key=_order):
            if room <= 0:
                break
            if job.leader is not None and not self._follows(job):
                continue
            done = self._length(job)
            piece = job.ids[done : done + room]
            room -= len(piece)
            found.append((job, piece))
        return found

    def _begin_with_others(self, job: Job) -> int:
        """Takes the longest prefix of a prompt from the prefix cache or a running sequence; returns its length.

        Where another prompt will soon compute a longer one, that job becomes the leader that this one waits for.
        """
        assert self._group is not None
        self._scheduler.check_version()
        cache: Any = self._group.cache
        found, kept = self._scheduler.prefixes.take(job.prompt, job.adapter)
        if kept is not None:
            cache.copy_row(job.slots[0], kept, 0)
        ahead = 0
        for other in self._group.jobs:
            if other is job or not other.reuse_prefix or other.adapter != job.adapter:
                continue
            length = common_beginning(other.prompt, job.prompt, len(job.prompt) - 1)
            if other not in self._prompts or self._length(other) >= length:
                self._take_beginning(job, other)
                found = self._length(job)
            elif length > ahead and other.priority <= job.priority:
                ahead, job.leader = length, other
        if ahead < found + BLOCK:  # too short to wait for
            job.leader = None
        return max(found, ahead) if job.leader is not None else found

    def _follows(self, job: Job) -> bool:
        """Whether the prefix that a prompt waits for is computed; then it is taken."""
        assert job.leader is not None
        length = common_beginning(job.leader.prompt, job.prompt, len(job.prompt) - 1)
        if job.leader in self._prompts and self._length(job.leader) < length:
            return False
        self._take_beginning(job, job.leader)
        job.leader = None
        return True

    def _take_beginning(self, job: Job, other: Job) -> None:
        """Shares the computed part of the prefix that a prompt has in common with a sequence."""
        assert self._group is not None
        cache: Any = self._group.cache
        length = common_beginning(other.prompt, job.prompt, min(len(job.prompt) - 1, self._length(other)))
        if length > self._length(job):
            self._scheduler.prefixes.found_tokens += length - self._length(job)
            cache.copy_row(job.slots[0], cache, other.slots[0], length)

    # --- forwards ----------------------------------------------------------------------------------------------

    def _forward(self, answers: list[Job], pieces: list[tuple[Job, list[int]]]) -> None:
        """Decodes a token for every sequence, and computes these pieces of prompts."""
        assert self._group is not None
        cache = self._group.cache
        rows: list[list[int]] = [[] for _ in range(cache.rows)]
        wanted: list[tuple[int, int]] = []
        turns: list[Turn] = []
        guesses = {} if pieces else self._guesses(answers)
        if guesses and not self._has_room([(job, 1 + max(map(len, guess))) for job, guess in guesses.items()]):
            guesses = {}
        for job in answers:
            mine = guesses.get(job, [[]] * len(job.tokens))
            places = []
            for slot, token, guess in zip(job.slots, job.tokens, mine, strict=True):
                rows[slot] = [token, *guess]
                places.append(len(wanted))
                wanted += [(slot, place) for place in range(len(guess) + 1)]
            turns.append(Turn(job, places, mine))
        for job, piece in pieces:
            slot = job.slots[0]
            rows[slot] = piece
            self._computed += len(piece)
            if int(cache.lengths[slot]) + len(piece) == len(job.ids):
                turns.append(Turn(job, places_after_prompt(job, len(wanted))))
                wanted.append((slot, len(piece) - 1))
        begin = perf_counter()
        logits = self._scheduler.forward(rows, cache, wanted)
        if not pieces:
            rows_now = sum(len(job.tokens) for job in answers)
            self._cost.observe(rows_now, len(wanted), perf_counter() - begin)
        for turn in self._scheduler.advance(turns, logits):
            self._scheduler.guarded([turn.job], self._settle, turn)

    def _settle(self, turn: Turn) -> None:
        """Continues the sequences of a job as its step says."""
        assert self._group is not None and turn.step is not None
        job, step, cache = turn.job, turn.step, self._group.cache
        for slot, guess, accepted in zip(job.slots, turn.guesses, step.accepted, strict=False):
            cache.lengths[slot] -= len(guess) - accepted
            self._scheduler.guessed += len(guess)
            self._scheduler.accepted += accepted
        if job in self._prompts:
            self._prompts.remove(job)
            for other in [other for other in self._prompts if other.leader is job]:
                self._follows(other)
        if not step.parents:
            self._scheduler.keep(job, cache, job.slots[0])
            self.remove(job)
            self._scheduler.end(job)
            return
        self._group.follow(job, step.parents)

    def _guesses(self, answers: list[Job]) -> dict[Job, list[list[int]]]:
        """The guesses for each sequence, as many as are worth checking."""
        found: list[tuple[Job, int, list[int]]] = []
        rates: list[tuple[float, int]] = []
        rows = sum(len(job.tokens) for job in answers)
        for job in answers:
            if not isinstance(job.search, Samples) or not job.search.config.prompt_lookup_num_tokens:
                continue
            for row in range(len(job.tokens)):
                lookup = job.search.lookup(row)
                assert isinstance(lookup, Lookup)
                guess = lookup.guesses(job.search.room(row) - 1)
                if guess:
                    found.append((job, row, guess))
                    rates.append((lookup.rate, len(guess)))
        if not found:
            return {}
        most = self._network.guesses_beside(rows, has_adapters=any(job.adapter for job in answers))
        told: dict[Job, list[list[int]]] = {}
        for (job, row, guess), count in zip(found, self._cost.counts(rows, rates, most), strict=True):
            if count:
                told.setdefault(job, [[] for _ in job.tokens])[row] = guess[:count]
        return told

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _length(self, job: Job) -> int:
        """Tokens in the first sequence of a job."""
        assert self._group is not None
        return int(self._group.cache.lengths[job.slots[0]])

    # --- memory ------------------------------------------------------------------------------------------------

    def _may_wait(self, job: Job) -> bool:
        """Whether a job can be preempted: its sequence computed again later to the same numbers. It happens once."""
        is_one = isinstance(job.search, Samples) and job.search.num_sequences == 1
        return is_one and not job.has_waited and self._network.is_exact(job.adapter)

    def _wanted_blocks(self, job: Job) -> int:
        """The blocks that must be free before a job is let in: those of its prompt if it can be preempted later."""
        if not job.use_past or not self._may_wait(job):
            return job.blocks
        return min(job.final_blocks, len(job.prompt) // BLOCK + 1)

    def _missing_blocks(self, job: Job) -> int:
        """The blocks that a running job may still take; if it can be preempted, until its next tokens are chosen."""
        assert self._group is not None
        cache: Any = self._group.cache
        final = job.final_blocks
        if self._may_wait(job):
            final = min(final, max(len(job.prompt), self._length(job)) // BLOCK + 1)
        own = job.final_blocks - len(job.prompt) // BLOCK  # for each sequence that begins after the prompt
        missing = sum(cache.missing_blocks(slot, final) for slot in job.slots)
        return missing + (job.search.num_sequences - len(job.slots)) * own

    def _has_room(self, wanted: list[tuple[Job, int]]) -> bool:
        """Whether there is memory for so many more tokens of these jobs in this step."""
        assert self._group is not None
        cache, pool = self._group.cache, self._network.blocks
        if pool.free_blocks is None:
            return True
        counts = np.zeros(cache.rows, np.int32)
        for job, count in wanted:
            counts[job.slots] = count
        return bool(cache.needed_blocks(counts) <= pool.free_blocks)  # type: ignore[attr-defined]

    def _with_memory(
        self, answers: list[Job], pieces: list[tuple[Job, list[int]]]
    ) -> tuple[list[Job], list[tuple[Job, list[int]]]]:
        """The part of a step that fits into memory: prefix cache is evicted, then pieces wait, then newer jobs."""
        while not self._has_room([*((job, 1) for job in answers), *((job, len(piece)) for job, piece in pieces)]):
            if self._scheduler.prefixes.give_up_oldest():
                continue
            if len(pieces) > (not answers):
                pieces = pieces[:-1]
                continue
            first = pieces[0][0] if pieces else answers[0]
            others = [job for job in self.jobs if job is not first and self._may_wait(job)]
            if not others:
                break  # the cache raises CacheFull
            self._put_back(others[-1])
            answers = [job for job in answers if job is not others[-1]]
        return answers, pieces

    def _put_back(self, job: Job) -> None:
        """Preempts a job: it waits again, and its tokens so far are computed with its prompt then."""
        assert self._group is not None
        slots = job.slots
        self.remove(job)
        self._group.cache.forget(slots)
        if job.tokens:
            job.replayed = list(job.search.open_ids(0))
        job.tokens, job.slots, job.leader, job.has_waited = [], [], None, True
        self._scheduler.put_back(job)

    def _tidy(self) -> None:
        if self._group is None:
            return
        if self._group.jobs:
            self._group.tidy()
        else:
            self._group = None


def _order(job: Job) -> tuple[int, int]:
    return job.priority, job.due
