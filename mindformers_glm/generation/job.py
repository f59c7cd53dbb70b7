"""A request in the scheduler: a job."""

from __future__ import annotations

from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.interface import Search
from mindformers_glm.generation.paged_cache import BLOCK
from mindformers_glm.generation.ticket import Ticket


class Job:
    """A request in the scheduler. Waiting ones go by `priority`, the lowest first, then in the order of arrival."""

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
        self.cache: KVCache | None = None  # during prefill: one sequence
        self.slots: list[int] = []  # its sequences in the shared cache, in the order of its open ones
        self.tokens: list[int] = []  # the newest token of each open sequence
        self.replayed: list[int] = []  # new tokens that lost their KV cache: computed again, like a prompt
        self.has_waited = False  # preempted: from then on the memory that it may need is kept free
        self.due = 0  # see paged_batch.py
        self.leader: Job | None = None  # another job with a common prefix, which is computed first

    @property
    def ids(self) -> list[int]:
        """The ids that must be in its KV cache before its next token is chosen."""
        return [*self.prompt, *self.replayed] if self.replayed else self.prompt

    @property
    def final_blocks(self) -> int:
        """The most blocks of a paged cache that one of its sequences can need."""
        return -(-(len(self.prompt) + self.search.limits.max_new) // BLOCK)

    @property
    def blocks(self) -> int:
        """The most blocks of a paged cache that all its sequences can need; full blocks of the prompt are shared."""
        shared = len(self.prompt) // BLOCK if self.use_past else 0
        return shared + self.search.num_sequences * (self.final_blocks - shared)

    @property
    def done(self) -> int:
        """How many of these ids its cache holds during prefill."""
        return 0 if self.cache is None else int(self.cache.lengths[0])
