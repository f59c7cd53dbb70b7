"""A request on its way through the scheduler."""

from __future__ import annotations

from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.interface import Search
from mindformers_glm.generation.paged_cache import BLOCK
from mindformers_glm.generation.ticket import Ticket


class Job:
    """A request on its way."""

    def __init__(
        self,
        prompt: list[int],
        search: Search,
        ticket: Ticket,
        *,
        use_past: bool,
        reuse_prefix: bool,
        adapter: int = 0,
    ) -> None:
        self.prompt, self.search, self.ticket = prompt, search, ticket
        self.use_past, self.reuse_prefix, self.adapter = use_past, reuse_prefix, adapter
        self.cache: KVCache | None = None  # while the prompt goes in: one row
        self.slots: list[int] = []  # afterwards: the group's rows, in the order of the search's open rows
        self.tokens: list[int] = []  # the newest token of each open row

    @property
    def blocks(self) -> int:
        """Blocks of a paged cache that it may need at most."""
        return self.search.num_rows * -(-(len(self.prompt) + self.search.limits.max_new) // BLOCK)

    @property
    def done(self) -> int:
        """Prompt tokens in the cache."""
        return 0 if self.cache is None else int(self.cache.lengths[0])
