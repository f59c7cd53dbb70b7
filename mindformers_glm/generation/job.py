"""A request on its way through the scheduler."""

from __future__ import annotations

from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.interface import Search
from mindformers_glm.generation.paged_cache import BLOCK
from mindformers_glm.generation.ticket import Ticket


class Job:
    """A request on its way. Of two that wait the one with the lower `priority` goes first, then the one that came."""

    def __init__(
        self,
        prompt: list[int],
        search: Search,
        ticket: Ticket,
        *,
        use_past: bool,
        reuse_prefix: bool,
        adapter: int = 0,
        priority: int = 0,
    ) -> None:
        self.prompt, self.search, self.ticket = prompt, search, ticket
        self.use_past, self.reuse_prefix, self.adapter = use_past, reuse_prefix, adapter
        self.priority = priority
        self.cache: KVCache | None = None  # while the prompt goes in: one sequence
        self.slots: list[int] = []  # places in the cache that it shares, in the order of its open sequences
        self.tokens: list[int] = []  # the newest token of each open sequence
        self.replayed: list[int] = []  # new tokens whose cache was given up: they are computed again, as a prompt is
        self.has_waited = False  # with its sequences given up: the memory that it may need is kept free then
        self.due = 0  # see paged_rows.py
        self.leader: Job | None = None  # whose prompt begins as this one's does, and is computed first

    @property
    def ids(self) -> list[int]:
        """What goes into its cache before its next token is chosen."""
        return [*self.prompt, *self.replayed] if self.replayed else self.prompt

    @property
    def final_blocks(self) -> int:
        """Blocks of a paged cache that each of its sequences may need at most."""
        return -(-(len(self.prompt) + self.search.limits.max_new) // BLOCK)

    @property
    def blocks(self) -> int:
        """Blocks of a paged cache that all its sequences may need at most; they share those that the prompt fills."""
        shared = len(self.prompt) // BLOCK if self.use_past else 0
        return shared + self.search.num_rows * (self.final_blocks - shared)

    @property
    def done(self) -> int:
        """Prompt tokens in its cache."""
        return 0 if self.cache is None else int(self.cache.lengths[0])
