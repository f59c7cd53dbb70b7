"""Instruction rows in three pairs, PREFIX_packed_{input_ids,attention_mask,labels}_document, as ModelLink reads them.

Source: ModelLink 1.1, decoder_packed_mtf_dataset.py and its collator (rules; the split is Megatron's older one).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindformers_glm.data.indexed.pair import IndexedPair, is_pair
from mindformers_glm.data.indexed.samples import PARTS
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.labels import IGNORED

FIELDS = ("input_ids", "attention_mask", "labels")


_LOOKED_AT = 1 << 20  # positions of the mask that say whether rows are packed


class Row(NamedTuple):
    """Ids and the labels that follow them, of equal length; `first_visible` of packed rows, see Batch."""

    input_ids: np.ndarray
    labels: np.ndarray
    first_visible: np.ndarray | None = None


def is_instruction_prefix(prefix: str | Path) -> bool:
    """Whether the pairs of instructions lie under a prefix."""
    return is_pair(f"{prefix}_packed_input_ids_document")


def older_split(split: str, count: int) -> list[tuple[int, int]]:
    """The runs of train, valid and test by Megatron's older rule: rounded sums, the excess taken from every border.

    Raises:
        ConfigError: the string gives no share.
    """
    shares = [float(word) for word in re.findall(r"[.0-9]+", split) if word.strip(".")]
    if not shares or len(shares) > len(PARTS) or sum(shares) <= 0:
        raise ConfigError("split", split, 'Give the shares of train, valid and test, for example "949,50,1".')
    shares += [0.0] * (len(PARTS) - len(shares))
    borders = [0]
    for share in shares:
        borders.append(borders[-1] + round(share / sum(shares) * float(count)))
    excess = borders[-1] - count
    borders = [0, *(border - excess for border in borders[1:])]
    return list(zip(borders[:-1], borders[1:], strict=True))


def reading_order(begin: int, end: int, *, seed: int, num_samples: int) -> np.ndarray:
    """Row numbers (M,) in reading order: permutations of `begin` up to `end` until there are more than asked for."""
    random, order = np.random.RandomState(seed), [np.zeros(0, np.int64)]
    while sum(map(len, order)) <= num_samples:
        order.append(random.permutation(np.arange(begin, end)))
    return np.concatenate(order)


class Instructions:
    """The rows of one part of the three pairs, in reading order (or file order with `num_samples` None).

    Raises:
        DataError: a pair is missing or damaged, or the three do not belong together.
        ConfigError: the split gives this part nothing.
    """

    def __init__(
        self, prefix: str | Path, *, split: str, part: str, seq_length: int, seed: int, num_samples: int | None = None
    ) -> None:
        self.prefix, self.seq_length = str(prefix), seq_length
        pairs = {name: IndexedPair(f"{prefix}_packed_{name}_document") for name in FIELDS}
        self.ids, self.labels, self.masks = pairs["input_ids"], pairs["labels"], pairs["attention_mask"]
        self.packed = int(self.masks.tokens[:_LOOKED_AT].max(initial=0)) > 1  # `preprocess --pack` counts parts from 1
        for name, pair in pairs.items():
            if not np.array_equal(pair.lengths, self.ids.lengths):
                fault = f"its rows are not as long as those of {Path(self.ids.prefix).name}"
                raise DataError(
                    pair.prefix, fault, f"Make the {name} and input_ids files in one run of preprocess_data"
                )
        begin, end = older_split(split, len(self.ids))[PARTS.index(part)]
        if begin == end:
            raise ConfigError("split", split, f"It gives {part} none of the {len(self.ids)} rows of {prefix}.")
        whole = np.arange(begin, end)
        self.order = whole if num_samples is None else reading_order(begin, end, seed=seed, num_samples=num_samples)

    def __len__(self) -> int:
        return len(self.order)

    def row(self, number: int) -> Row:
        """A row cut at `seq_length`: ids without the last, labels without the first."""
        at = int(self.order[number])
        row = Row(self.ids[at][:-1][: self.seq_length], self.labels[at][1:][: self.seq_length])
        if not self.packed:
            return row
        parts = np.asarray(self.masks[at])[: len(row.input_ids)]
        begins = np.flatnonzero(np.diff(parts, prepend=-1))
        return row._replace(first_visible=np.repeat(begins, np.diff([*begins, len(parts)])))


def left_padded(rows: Sequence[Row], seq_length: int) -> dict[str, np.ndarray]:
    """ModelLink's batch of rows: (B, a multiple of seq_length), filled on the left with ids 0 and labels -100."""
    longest = max(len(row.input_ids) for row in rows)
    width = -(-longest // seq_length) * seq_length
    ids, labels = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), IGNORED, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        begin = width - len(row.input_ids)
        ids[number, begin:], labels[number, begin:], mask[number, begin:] = row.input_ids, row.labels, 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
