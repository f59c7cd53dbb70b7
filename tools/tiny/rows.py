"""From the corpus to rows of equal length: several conversations in each, which do not see each other.

Shapes: R rows of T tokens; a row has three planes: ids, the first position that each token may look at, labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mindformers_glm.data.batch import Batch
from mindformers_glm.data.packing import join, neat
from mindformers_glm.files import atomic_write
from mindformers_glm.labels import IGNORED
from mindformers_glm.tokenizers import Renderer
from tools.tiny.families import Family

LENGTH = 1024
_BYTES = 259  # ids before the first piece of text: marks and bytes
_TOGETHER = 4000  # conversations that are packed with each other


def encoded(path: Path, family: Family, tokenizer_path: Path) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of every line that fits: every reply is learned, of plain text everything."""
    tokenizer = family.reads(tokenizer_path)
    renderer = Renderer(tokenizer)
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(family.said(line))
            if row["kind"] in family.without:
                continue
            if "text" in row:
                ids = [*tokenizer.encode(row["text"]), tokenizer.eos_token_id]
                ids, labels = ids[:-1], ids[1:]
            else:
                ids, labels = renderer.example(row["messages"], tools=row.get("tools"))
            if len(ids) <= LENGTH:
                yield ids, labels


def write(corpus: Path, family: Family, tokenizer: Path, path: Path) -> np.ndarray:
    """The packed rows (R, 3, T) as an array file that appears whole or not at all; read back as a map of it."""
    if not path.exists():
        found, waiting = list[np.ndarray](), list[tuple[list[int], list[int]]]()
        for pair in encoded(corpus, family, tokenizer):
            waiting.append(pair)
            if len(waiting) == _TOGETHER:
                found.append(_packed(waiting))
                waiting = []
        found += [_packed(waiting)] if waiting else []
        with atomic_write(path) as file:
            np.save(file, np.concatenate(found))
    return np.load(path, mmap_mode="r")


def _packed(pairs: list[tuple[list[int], list[int]]]) -> np.ndarray:
    packs = neat([len(ids) for ids, _ in pairs], LENGTH)
    rows = np.zeros((len(packs), 3, LENGTH), np.int16)
    for row, pack in zip(rows, packs, strict=True):
        made = join([pairs[number] for number in pack], LENGTH)
        starts = [0, *made.ends]
        first = np.repeat(starts, np.diff([*starts, LENGTH]))
        row[0], row[1], row[2] = made.input_ids, first, made.labels
    return rows


def drilled(rng: np.random.Generator, vocabulary: int) -> np.ndarray:
    """A row (3, T) of drawn tokens, each piece of them said two to four times: all but the first time is learned.

    Copying is the one thing that most skills need, and text alone teaches it late. Olsson et al., In-context Learning
    and Induction Heads, 2022.
    """
    row = np.zeros((3, LENGTH), np.int16)
    row[2], place = IGNORED, 0
    while place < LENGTH:
        said = rng.integers(_BYTES, vocabulary, rng.integers(3, 33))
        part = np.tile(said, rng.integers(2, 5))[: LENGTH - place + 1]
        ids, labels = part[:-1], part[1:].copy()
        labels[: len(said)] = IGNORED
        end = place + len(ids)
        row[0, place:end], row[1, place:end], row[2, place:end] = ids, place, labels
        place = max(end, place + 1)
    return row


def batch(rows: np.ndarray, step: int, size: int, *, drill: float = 0.0, vocabulary: int = 0, seed: int = 0) -> Batch:
    """The rows of a step, from 0: every epoch has an order of its own. `drill` of them are `drilled` instead."""
    numbers = np.arange(step * size, (step + 1) * size)
    epochs = numbers // len(rows)
    chosen = [
        rows[np.random.default_rng((seed, epoch)).permutation(len(rows))[number % len(rows)]]
        for epoch, number in zip(epochs, numbers, strict=True)
    ]
    rng = np.random.default_rng((seed, step, 1))
    chosen = [drilled(rng, vocabulary) if rng.random() < drill else row for row in chosen]
    ids, first, labels = np.moveaxis(np.stack(chosen).astype(np.int32), 1, 0)
    return Batch(
        np.ascontiguousarray(ids), np.ascontiguousarray(labels), np.zeros(size, np.int64), np.ascontiguousarray(first)
    )
