"""Several rows in one: which go together, and what the joined row looks like. Shapes: T tokens of a packed row.

Sources of the strategies: `sequential` and `truncated` are MindFormers 2.x's PackingHandler (pack_strategy "pack" and
"truncate"), `neat` is LLaMA-Factory's neat_packing.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mindformers_glm.data.batch import Example
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.errors import ConfigError
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import logger

Strategy = Literal["neat", "sequential"]
Ids = Sequence[int] | np.ndarray


class Packed(NamedTuple):
    """A joined row, all (T,). `segments` counts its parts from 1, 0 is padding; positions restart with each part."""

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    segments: np.ndarray
    ends: list[int]  # where each part ends


def sequential(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows in their order; one that does not fit opens the next pack, one longer than a pack is left out."""
    packs: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if length > capacity:
            continue
        if length > room or not packs:
            packs.append([])
            room = capacity
        packs[-1].append(number)
        room -= length
    return packs


def neat(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Each pack takes the longest row that fits, until none does; of equal rows the last one first."""
    rows: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        if length <= capacity:
            rows.setdefault(int(length), []).append(number)
    sizes, packs = sorted(rows), []
    while sizes:
        pack: list[int] = []
        room = capacity
        while at := bisect.bisect_right(sizes, room):
            size = sizes[at - 1]
            pack.append(rows[size].pop())
            room -= size
            if not rows[size]:
                del sizes[at - 1]
        packs.append(pack)
    return packs


def join(
    rows: Sequence[tuple[Ids, Ids]],
    length: int,
    *,
    pad_id: int = 0,
    closing: int | None = None,
    pad_segments: bool = False,
) -> Packed:
    """Rows (ids, labels) end to end, filled up to `length`.

    With `closing` the labels are shifted first, row by row, and it is the label of each row's last position
    (MindFormers: the pad id; here labels are shifted already, so it is left out). Positions restart in the padding
    too, with `pad_segments` (MindFormers); otherwise they are 0 there (LLaMA-Factory).
    """
    ids, labels = np.full(length, pad_id, np.int64), np.full(length, IGNORED, np.int64)
    positions, segments, ends, place = np.zeros(length, np.int64), np.zeros(length, np.int64), [], 0
    for number, (own_ids, own_labels) in enumerate(rows, 1):
        end = place + len(own_ids)
        ids[place:end] = own_ids
        labels[place:end] = own_labels if closing is None else [*own_labels[1:], closing]
        positions[place:end], segments[place:end] = np.arange(end - place), number
        ends.append(end)
        place = end
    if pad_segments:
        positions[place:] = np.arange(length - place)
    return Packed(ids, labels, positions, segments, ends)


def truncated(rows: Sequence[tuple[Ids, Ids]], length: int, *, pad_id: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """All rows as one stream, cut every `length` tokens: (ids, labels) of each piece, the last padded."""
    ids = np.concatenate([np.asarray(row[0], np.int64) for row in rows])
    labels = np.concatenate([np.asarray(row[1], np.int64) for row in rows])
    rest = -len(ids) % length
    ids, labels = np.append(ids, np.full(rest, pad_id)), np.append(labels, np.full(rest, IGNORED))
    return list(zip(ids.reshape(-1, length), labels.reshape(-1, length), strict=True))


class Piece(NamedTuple):
    """A piece of a stream of rows, arrays (T,). `used` are its tokens before the padding."""

    input_ids: np.ndarray
    labels: np.ndarray
    first_visible: np.ndarray
    used: int


def stream(rows: Sequence[tuple[Ids, Ids]], length: int, *, pad_id: int = 0) -> list[Piece]:
    """`truncated` with shifted labels: no position of a piece attends beyond the beginning of its own row."""
    ends = np.cumsum([len(ids) for ids, _ in rows])
    row_of = np.searchsorted(ends, np.arange(int(ends[-1])), side="right")
    begins = np.append(np.concatenate(([0], ends[:-1]))[row_of], np.full(-int(ends[-1]) % length, ends[-1]))
    pieces = []
    for number, (ids, labels) in enumerate(truncated(rows, length, pad_id=pad_id)):
        place = number * length
        first = np.maximum(begins[place : place + length] - place, 0)
        pieces.append(Piece(ids, labels, first, min(length, int(ends[-1]) - place)))
    return pieces


class PackedDataset(TokenDataset):
    """Packs of a dataset's rows: each attends to itself alone, so that loss and gradients are those of the rows apart.

    Rows are tokenised once to learn their lengths, and again when they are needed.
    """

    def __init__(self, rows: TokenDataset, *, strategy: str) -> None:
        lengths = rows.lengths()
        self.rows_of, self.length, self.tokenizer = rows, rows.row_length, getattr(rows, "tokenizer", None)
        choose = {"neat": neat, "sequential": sequential}.get(strategy)
        if choose is None:
            raise ConfigError("packing", strategy, "Use neat (fewest rows) or sequential (the file's order).")
        self.packs = choose(lengths, self.length)
        order = dataclasses.replace(rows.order, num_rows=len(self.packs))
        super().__init__(order=order, place=rows.place, prefetch_size=rows.prefetch_size)
        filled = 100 * sum(lengths) / max(len(self.packs) * self.length, 1)
        logger.info(
            "%s: %d rows packed into %d of %d tokens, %.1f %% filled (without packing: %.1f %%)",
            rows.place,
            len(lengths),
            len(self.packs),
            self.length,
            filled,
            100 * sum(lengths) / max(len(lengths) * self.length, 1),
        )

    def example(self, index: int) -> Example:
        """The pack `index` as one row."""
        parts = [self.rows_of.example(number) for number in self.packs[index]]
        used = [example.used for example in parts]
        made = join([(p.input_ids[:n], p.labels[:n]) for p, n in zip(parts, used, strict=True)], self.length)
        starts = np.repeat([0, *made.ends], np.diff([0, *made.ends, self.length]))
        cut = any(example.cut for example in parts)
        return Example(made.input_ids.tolist(), made.labels.tolist(), sum(used), cut, starts.tolist())

    def line(self, index: int) -> int:
        """The line of the first row of a pack."""
        return self.rows_of.line(self.packs[index][0])
