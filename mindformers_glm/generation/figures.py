"""Counts that an engine keeps: prefix cache hits, accepted guesses, preemptions, and the use of its KV cache."""

from __future__ import annotations

from typing import NamedTuple

from mindformers_glm.generation.paged_cache import BLOCK
from mindformers_glm.generation.scheduler import Scheduler


class Figures(NamedTuple):
    """Counts since the engine began, and `cache_usage` now, 0 to 1: the share of the cache's bound that is in use, or,
    where there is no bound, of the size of `max_num_seqs` sequences of the model's length.
    """

    prefix_tokens_asked: int  # of the prompts that were looked up in the prefix cache
    prefix_tokens_found: int
    guessed_tokens: int  # guesses that were checked (prompt_lookup_num_tokens)
    accepted_tokens: int  # those that were right
    preemptions: int  # requests whose KV cache was given to others; they are computed again when there is memory
    cache_usage: float


def figures_of(scheduler: Scheduler, *, max_tokens: int) -> Figures:
    """The figures of a scheduler; `max_tokens` is the most that a cache without a bound can hold."""
    prefixes, pool, usage = scheduler.prefixes, getattr(scheduler.network, "blocks", None), 0.0
    if pool is not None:
        usage = min(pool.used_blocks / (pool.max_blocks or max(1, max_tokens // BLOCK)), 1.0)
    found = prefixes.asked_tokens, prefixes.found_tokens
    return Figures(*found, scheduler.guessed, scheduler.accepted, scheduler.preemptions, usage)
