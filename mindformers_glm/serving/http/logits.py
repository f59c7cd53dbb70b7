"""Edits of logits that a request may ask for: biases and penalties as OpenAI defines them. Shapes: V vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Bias:
    """Adds a number to the logits of some ids."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self._ids = np.asarray(list(biases), np.int64)
        self._values = np.asarray(list(biases.values()), np.float32)

    def __call__(self, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Logits (1, V)."""
        logits[0, self._ids] += self._values
        return logits


class Penalties:
    """Lowers what was said: `presence` once for each id among the new ones, `frequency` for each time it came."""

    def __init__(self, prompt_tokens: int, *, presence: float, frequency: float) -> None:
        self._begin, self._presence, self._frequency = prompt_tokens, presence, frequency

    def __call__(self, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Logits (1, V)."""
        said, times = np.unique(ids[0, self._begin :], return_counts=True)
        logits[0, said] -= (self._presence + self._frequency * times).astype(np.float32)
        return logits
