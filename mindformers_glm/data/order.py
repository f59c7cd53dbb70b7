"""Which rows make which batch: a pure function of (seed, epoch), the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mindformers_glm.errors import ConfigError, DataError

NOTHING = -1  # row index of a filler


@dataclass(frozen=True, kw_only=True)
class Order:
    """Row indices of batch `index` of an epoch, for one rank.

    Every rank gets equally many batches of equal shape and no row twice. With `drop_remainder` the rows that do
    not fill a batch on every rank are left out (others every epoch, when shuffled); without it the last batch is
    shorter, and a rank that has a row less gets a filler.
    """

    num_rows: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_remainder: bool = True
    repeat: int = 1
    rank: int = 0
    rank_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError("batch_size", self.batch_size, "Use 1 or more.")
        if self.repeat < 1:
            raise ConfigError("repeat", self.repeat, "Use 1 or more.")
        if not 0 <= self.rank < self.rank_size:
            raise ConfigError("shard_id", self.rank, f"Use 0 to {self.rank_size - 1}, below num_shards.")

    @property
    def rows_per_rank(self) -> int:
        """Rows of one pass on each rank, fillers included."""
        whole, rest = divmod(self.num_rows, self.rank_size)
        return whole if self.drop_remainder else whole + (rest > 0)

    @property
    def batches_per_pass(self) -> int:
        """Batches of one pass over the data."""
        whole, rest = divmod(self.rows_per_rank, self.batch_size)
        return whole if self.drop_remainder else whole + (rest > 0)

    def __len__(self) -> int:
        return self.batches_per_pass * self.repeat

    def require_batches(self, place: str) -> None:
        """Raises DataError when not even one batch can be filled."""
        if not len(self):
            fault = f"{self.num_rows} rows over {self.rank_size} ranks fill no batch of {self.batch_size}"
            raise DataError(place, fault, "Lower runner_config.batch_size, or set drop_remainder: False")

    def batch(self, epoch: int, index: int) -> np.ndarray:
        """Row indices (B,) of one batch; -1 is a filler."""
        turn, inside = divmod(index, self.batches_per_pass)
        own = _permutation(self, epoch * self.repeat + turn)[self.rank :: self.rank_size]
        own = own[: self.rows_per_rank]
        if len(own) < self.rows_per_rank:
            own = np.append(own, NOTHING)
        return own[inside * self.batch_size : (inside + 1) * self.batch_size]


@lru_cache(maxsize=4)
def _permutation(order: Order, turn: int) -> np.ndarray:
    if not order.shuffle:
        return np.arange(order.num_rows)
    return np.random.default_rng([order.seed, turn]).permutation(order.num_rows)
