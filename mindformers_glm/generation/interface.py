"""What the engine asks of others: a `Network` that computes logits, and a `Search` that chooses tokens from them.

A search gets the logits of its open sequences and returns the next tokens, and which sequence of the KV cache each of
them continues (`Step`). The engine knows nothing else of it, so sampling and beam search can share batches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.config import Limits
from mindformers_glm.generation.sampling import Choice

FinishReason = Literal["stop", "length", "cancelled"]


class Generation(NamedTuple):
    """New ids of one result, including the stop id, and why it ended.

    `logprobs` and `best` (best ids with their log-probabilities) have an entry for each id where they were asked for.
    `seed` is the one that was used; `score` is the normalised log-probability of a beam search.
    """

    ids: list[int]
    finish_reason: FinishReason
    logprobs: list[float] | None = None
    best: list[tuple[tuple[int, float], ...]] | None = None
    prompt_tokens: int = 0
    seed: int | None = None
    score: float | None = None


class Token(NamedTuple):
    """A new token of one result of a prompt; `sample` is the number of the result."""

    sample: int
    choice: Choice


class Step(NamedTuple):
    """Open sequence i continues row `parents[i]` of the logits with `tokens[i]`; `events` are tokens to show.

    `accepted` has for each sequence that was open before the number of its right guesses (lookup.py); empty: none.
    """

    parents: list[int]
    tokens: list[int]
    events: list[Token]
    accepted: Sequence[int] = ()


class Search(Protocol):
    """What the engine knows of a search."""

    num_sequences: int
    limits: Limits

    def advance(self, logits: np.ndarray) -> Step:
        """The next tokens, from logits (n, V) of the n open sequences; (1, V) after the prompt."""

    def open_ids(self, row: int) -> Sequence[int]:
        """New ids of an open sequence."""

    def results(self) -> list[Generation]:
        """Every result; sequences that are still open are returned as cancelled."""


class Network(Protocol):
    """A causal language model on some device. R sequences, T new tokens, V vocabulary."""

    vocab_size: int
    max_length: int

    def new_cache(self, rows: int) -> KVCache:
        """An empty KV cache for so many sequences."""

    def forward(self, tokens: np.ndarray, counts: np.ndarray, cache: KVCache, wanted: np.ndarray | None) -> Any:
        """Logits (len(wanted), V) float32; appends the first counts[r] tokens of each row r to sequence r of the cache.

        tokens (R, T) int32, padded on the right; `wanted` holds flat positions r * T + t, None: no logits are needed.
        """

    def version(self) -> Hashable:
        """A value that is different after the weights have changed."""


class AdaptedNetwork(Network, Protocol):
    """A network whose sequences may have different adapters; `adapters` of the cache has the number of each."""

    def add_adapter(self, adapter: Any) -> int:
        """Adds an adapter; returns its number, which is above 0 and never used again."""

    def remove_adapter(self, number: int) -> None:
        """Removes an adapter that no sequence uses."""
