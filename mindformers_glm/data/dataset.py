"""Batches of a list of rows: order, tokenisation ahead of need, padding, counting. Shapes: B batch, T tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from mindformers_glm.data.batch import FILLER, Batch, Example, Statistics
from mindformers_glm.data.order import NOTHING, Order
from mindformers_glm.data.prefetch import ahead
from mindformers_glm.errors import DataError
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import logger
from mindformers_glm.tokenizers.glm import GLMTokenizer

_PROBED = 64  # rows looked at before anything compiles


class TokenDataset(ABC):
    """Batches of examples. A subclass says what row `index` becomes and which line it came from.

    `batches(epoch, start)` gives the same batches for the same seed, epoch and start on every run, so a position
    is (epoch, start) and nothing else needs saving.
    """

    tokenizer: GLMTokenizer | None = None  # None where rows come as ids
    counts_labels = True  # False where labels are references to compare with and not targets

    def __init__(self, *, order: Order, place: str, prefetch_size: int = 2, max_unsupervised: int = 0) -> None:
        order.require_batches(place)
        self.order, self.place = order, place
        self.batch_size = order.batch_size
        self.statistics = Statistics()
        self._depth, self._max_unsupervised = prefetch_size, max_unsupervised
        left_out = order.num_rows - len(order) * order.batch_size * order.rank_size // order.repeat
        if left_out > 0 and not order.shuffle:
            logger.warning("%s: %d rows fill no batch and are left out (drop_remainder: True)", place, left_out)

    @abstractmethod
    def example(self, index: int) -> Example:
        """Row `index` as ids and labels."""

    @abstractmethod
    def line(self, index: int) -> int:
        """Line of the source, from 1, that row `index` came from."""

    @property
    def row_length(self) -> int:
        """Tokens T of every row, padding included."""
        return len(self.example(0).input_ids)

    @property
    def prefetch_size(self) -> int:
        """Batches made ahead of need."""
        return self._depth

    def lengths(self) -> list[int]:
        """Tokens of each row before padding.

        Raises:
            DataError: more rows than allowed have no token to learn; names the line.
        """
        found, sizes = Statistics(), []
        for index in range(self.num_rows):
            example = self.example(index)
            found.add(example, self._supervised(example, index, found))
            sizes.append(example.used)
        return sizes

    def __len__(self) -> int:
        """Batches per epoch on this rank."""
        return len(self.order)

    @property
    def num_rows(self) -> int:
        """Rows of the whole dataset, over all ranks."""
        return self.order.num_rows

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start ...` of an epoch; (B, T) each.

        Raises:
            DataError: more samples than allowed have no token to learn; names the line.
        """
        made = ahead(lambda index: self._make(epoch, index), range(start, len(self)), depth=self._depth)
        for batch, examples in made:
            self._count(batch, examples)
            yield batch

    def survey(self, count: int | None = None) -> Statistics:
        """Counts over the first `count` rows of the file (all by default), apart from `statistics`."""
        found = Statistics()
        for index in range(min(self.num_rows, count or self.num_rows)):
            example = self.example(index)
            found.add(example, self._supervised(example, index, found))
        return found

    def probe(self) -> None:
        """Looks at the first rows and logs how much of them is learned, so that faults show before training."""
        if self.counts_labels:
            found = self.survey(_PROBED)
            logger.info("%s: of the first rows: %s", self.place, found)

    def _make(self, epoch: int, index: int) -> tuple[Batch, list[Example | None]]:
        rows = self.order.batch(epoch, index)
        examples = [None if row == NOTHING else self.example(int(row)) for row in rows]
        pattern = next((example for example in examples if example), None) or self.example(0)
        ids = [(example or pattern).input_ids for example in examples]
        empty = [IGNORED] * len(pattern.labels)
        labels = [example.labels if example else empty for example in examples]
        lines = [FILLER if row == NOTHING else self.line(int(row)) for row in rows]
        batch = Batch(np.array(ids, np.int32), np.array(labels, np.int32), np.array(lines, np.int64))
        for name in ("first_visible", "position_ids"):
            if getattr(pattern, name) is not None:
                rows_of = [getattr(example or pattern, name) for example in examples]
                batch = batch._replace(**{name: np.array(rows_of, np.int32)})
        return batch, examples

    def _count(self, batch: Batch, examples: list[Example | None]) -> None:
        for example, line in zip(examples, batch.rows, strict=True):
            if example is not None:
                self.statistics.add(example, self._supervised(example, None, self.statistics, int(line)))

    def _supervised(self, example: Example, index: int | None, found: Statistics, line: int | None = None) -> int:
        count = len(example.labels) - example.labels.count(IGNORED) if self.counts_labels else 0
        if count or not self.counts_labels:
            return count
        if found.unsupervised_samples >= self._max_unsupervised:
            line = self.line(index) if line is None and index is not None else line
            fault = "no token of this sample would be learned"
            fix = "Raise the maximum length, repair or remove the line, or allow some with max_unsupervised"
            raise DataError(f"{self.place}:{line}", fault, fix)
        return 0
