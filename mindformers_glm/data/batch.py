"""What a dataset hands to the trainer: arrays of equal length and the source line of each row.

Shapes: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

FILLER = 0  # the line number of a row that only evens out the ranks


class Batch(NamedTuple):
    """`labels[i]` is the token to predict at position i (shifted already), or -100."""

    input_ids: np.ndarray  # (B, T) int32
    labels: np.ndarray  # (B, T) int32; in the eval phase (B, T_target): reference answers
    rows: np.ndarray  # (B,) int64: line numbers of the source, from 1; 0 for a filler row
    first_visible: np.ndarray | None = None  # (B, T) int32, packed rows: the first position each token may look at
    position_ids: np.ndarray | None = None  # (B, T) int32, where they restart and earlier tokens stay visible

    def network_input(self) -> np.ndarray:
        """What the network takes as `input_ids`: (B, T); packed rows (B, 2, T), `first_visible` second; with positions
        of their own (B, 3, T), `position_ids` third.
        """
        if self.first_visible is None and self.position_ids is None:
            return self.input_ids
        visible = np.zeros_like(self.input_ids) if self.first_visible is None else self.first_visible
        more = [] if self.position_ids is None else [self.position_ids]
        return np.stack([self.input_ids, visible, *more], 1)


class Dataset(Protocol):
    """Batches whose order is a function of the epoch."""

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of an epoch, both from 0."""
        ...


class Example(NamedTuple):
    """One row before batching."""

    input_ids: list[int]  # padded to T
    labels: list[int]
    used: int  # tokens before padding
    cut: bool = False  # something was cut off to fit
    first_visible: list[int] | None = None  # in a packed row: the first position that each token may look at
    position_ids: list[int] | None = None  # where they are not 0 to T - 1 and matter: see Batch


@dataclass
class Statistics:
    """Counts over the rows delivered so far."""

    samples: int = 0
    tokens: int = 0
    supervised: int = 0
    cut: int = 0
    unsupervised_samples: int = 0

    def add(self, example: Example, supervised: int) -> None:
        """Counts one row with so many supervised labels."""
        self.samples += 1
        self.tokens += example.used
        self.supervised += supervised
        self.cut += example.cut
        self.unsupervised_samples += supervised == 0

    def __str__(self) -> str:
        share = 100 * self.supervised / max(self.tokens, 1)
        return (
            f"{self.samples} samples, {self.tokens} tokens, {self.supervised} supervised ({share:.1f} %), "
            f"{self.cut} samples cut to fit"
        )
