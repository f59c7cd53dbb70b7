"""Batches of an evaluation or prediction divided among data ranks, and their results put together in order again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mindformers_glm.generation.config import GenerationConfig


def _alone(data: bytes) -> list[bytes]:
    return [data]


class Share(NamedTuple):
    """Every `size`-th batch from number `rank` on. A batch is never cut, so its result is that of one process.

    `exchange` gives every rank's bytes, in order of the ranks, to all of them (parallel.collectives.gather_bytes).
    """

    rank: int = 0
    size: int = 1
    exchange: Callable[[bytes], list[bytes]] = _alone

    def has(self, number: int) -> bool:
        """True for the batches of this rank."""
        return number % self.size == self.rank

    def count(self, batches: int) -> int:
        """How many of so many batches this rank has."""
        return len(range(self.rank, batches, self.size))

    def settings(self, config: GenerationConfig) -> GenerationConfig:
        """The settings of the next batch; called for every batch on every rank, so that all draw the same seeds."""
        return config if config.greedy or self.size == 1 else config.updated(seed=config.drawn_seed())

    def joined(self, results: Mapping[int, Any]) -> list[Any]:
        """The results of all ranks in the order of the batches. They are what JSON can hold."""
        if self.size == 1:
            return [results[number] for number in sorted(results)]
        parts = self.exchange(json.dumps(list(results.items())).encode())
        everything = dict(item for part in parts for item in json.loads(part))
        return [everything[number] for number in sorted(everything)]


ALL = Share()  # one process: every batch
