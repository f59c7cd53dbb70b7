"""Samples of several corpora in one order, by weight: Megatron's blending (core/datasets/helpers.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SURPLUS = 0.005  # Megatron's mid_level_dataset_surplus: each corpus builds so much more than its share


class Blend(NamedTuple):
    """For each sample of a blend: the corpus it comes from (M,) int16, and its number there (M,) int64."""

    corpus: np.ndarray
    sample: np.ndarray

    def __len__(self) -> int:
        return len(self.corpus)


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum."""
    total = float(np.sum(np.array(weights, np.float64)))
    return [float(weight) / total for weight in weights]


def shares(weights: Sequence[float], num_samples: int) -> list[int]:
    """Samples that each corpus contributes to a blend of `num_samples`, rounded up."""
    return [math.ceil(num_samples * weight) for weight in normalised(weights)]


def with_surplus(count: int) -> int:
    """Samples that a corpus is asked to build for a share of `count`."""
    return math.ceil(count * (1 + _SURPLUS))


def blend(weights: Sequence[float], size: int) -> Blend:
    """The first `size` samples of a blend: each comes from the corpus that is furthest behind its weight."""
    parts, counts = normalised(weights), [0] * len(weights)
    corpus, sample = np.zeros(size, np.int16), np.zeros(size, np.int64)
    for number in range(size):
        so_far = max(number, 1.0)
        errors = [weight * so_far - count for weight, count in zip(parts, counts, strict=True)]
        chosen = errors.index(max(errors))
        corpus[number], sample[number] = chosen, counts[chosen]
        counts[chosen] += 1
    return Blend(corpus, sample)


def exhausted(sizes: Sequence[int]) -> Blend:
    """All samples of all corpora, each once, in the proportion of their sizes for as long as that is possible."""
    total, counts, left = sum(sizes), [0] * len(sizes), {i for i, size in enumerate(sizes) if size}
    corpus, sample = np.zeros(total, np.int16), np.zeros(total, np.int64)
    for number in range(total):
        so_far = max(number, 1.0)
        chosen = max(sorted(left), key=lambda i: sizes[i] / total * so_far - counts[i])
        corpus[number], sample[number] = chosen, counts[chosen]
        counts[chosen] += 1
        if counts[chosen] >= sizes[chosen]:
            left.discard(chosen)
    return Blend(corpus, sample)
