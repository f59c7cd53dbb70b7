"""What an engine tells of its work: prefixes found, guesses that were right, requests that were put off, its cache."""

from __future__ import annotations

from typing import NamedTuple

from mindformers_glm.generation.paged_cache import BLOCK
from mindformers_glm.generation.scheduler import Scheduler


class Figures(NamedTuple):
    """Counts since the engine began, and `cache_usage` now: the share in use of the cache's bound, or where it has none
    of what `max_num_seqs` sequences of the model's length would take, 0 to 1.
    """

    prefix_tokens_asked: int  # of the prompts that looked for a kept prefix
    prefix_tokens_found: int
    guessed_tokens: int  # that were checked (prompt_lookup_num_tokens)
    accepted_tokens: int  # of them, those that were right
    preemptions: int  # requests that gave their sequences up for others, to be computed again when there is memory
    cache_usage: float


def figures_of(scheduler: Scheduler, *, max_tokens: int) -> Figures:
    """The figures of a scheduler; `max_tokens` is what a cache without a bound may come to hold."""
    prefixes, pool, usage = scheduler.prefixes, getattr(scheduler.network, "blocks", None), 0.0
    if pool is not None:
        usage = min(pool.used_blocks / (pool.max_blocks or max(1, max_tokens // BLOCK)), 1.0)
    found = prefixes.asked_tokens, prefixes.found_tokens
    return Figures(*found, scheduler.guessed, scheduler.accepted, scheduler.preemptions, usage)
