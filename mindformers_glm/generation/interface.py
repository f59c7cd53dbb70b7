"""What the engine asks of others: a `Network` that computes logits, and a `Search` that chooses tokens from them.

A search is fed the logits of its open sequences and answers which sequence of the cache each next one continues
(`Step`). The engine knows nothing else of it, so that sampling and beam search share batches.
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
    """New ids of one result, the id that ended it included, and how it ended.

    `logprobs` and `best` (top ids with their log-probabilities) have an entry for each id where they were asked for.
    `seed` is the one that was used; `score` the normalised log-probability where beams were searched.
    """

    ids: list[int]
    finish_reason: FinishReason
    logprobs: list[float] | None = None
    best: list[tuple[tuple[int, float], ...]] | None = None
    prompt_tokens: int = 0
    seed: int | None = None
    score: float | None = None


class Token(NamedTuple):
    """A new token of result number `sample` of a prompt."""

    sample: int
    choice: Choice


class Step(NamedTuple):
    """`parents[i]` is the row of the logits that open sequence i continues, with `tokens[i]`; `events` can be shown.

    `accepted` tells of each sequence that was open before how many of its guesses were right (lookup.py); empty: none.
    """

    parents: list[int]
    tokens: list[int]
    events: list[Token]
    accepted: Sequence[int] = ()


class Search(Protocol):
    """The engine's view of a search."""

    num_rows: int
    limits: Limits

    def advance(self, logits: np.ndarray) -> Step:
        """The next tokens, from logits (n, V) of the open sequences; (1, V) after the prompt."""

    def open_ids(self, row: int) -> Sequence[int]:
        """New ids of an open sequence."""

    def results(self) -> list[Generation]:
        """Every result; sequences that are still open count as cancelled."""


class Network(Protocol):
    """A causal language model on some device. R sequences, T new tokens, V vocabulary."""

    vocab_size: int
    max_length: int

    def new_cache(self, rows: int) -> KVCache:
        """An empty cache for so many sequences."""

    def forward(self, tokens: np.ndarray, counts: np.ndarray, cache: KVCache, wanted: np.ndarray | None) -> Any:
        """Logits (len(wanted), V) float32; the first counts[r] tokens of each sequence (R, T) go into the cache.

        tokens (R, T) int32, padded on the right; `wanted` holds flat places r * T + t, None when no logits are needed.
        """

    def version(self) -> Hashable:
        """Something that changes when the weights do."""


class AdaptedNetwork(Network, Protocol):
    """A network whose sequences may each have another adapter; the cache's `adapters` holds their numbers."""

    def add_adapter(self, adapter: Any) -> int:
        """The number of an adapter from now on, above 0 and never used again."""

    def remove_adapter(self, number: int) -> None:
        """Forgets an adapter that no sequence has."""
