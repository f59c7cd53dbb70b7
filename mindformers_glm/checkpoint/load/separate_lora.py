"""LoRA that was trained on query, key and value apart, as one LoRA on the layer that holds them here.

With y = W x + s B A x for each of the three, the matrices A stand below each other in one, and the matrices B are the
blocks on the diagonal of the other: the sum is the same, exactly. The rank is that of all parts together, and so is
alpha, whose ratio to the rank is what scales. Layers that are whole get zeros up to that rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import DTYPES
from mindformers_glm.checkpoint.formats.tensor_file import Entry, TensorFile
from mindformers_glm.checkpoint.load.names import LORA_NAME, NATIVE_BLOCKS
from mindformers_glm.errors import CheckpointError

_LORA = re.compile(
    r"^(?:base_model\.model\.)?(model\.layers\.(\d+)\.\w+\.\w+)\.lora_(?:([AB])(?:\.default)?\.weight|(m)agnitude_vector"
    r"(?:\.default)?(?:\.weight)?)$"
)
_NUMBER = re.compile(r"\.layers\.(\d+)\.")
_Pairs = dict[int, dict[str, tuple[TensorFile, str]]]  # part of a layer -> a or b -> where the tensor lies


class _Place(NamedTuple):
    layer: str
    part: int
    parts: int
    letter: str


def separate_parts(names: Iterable[str]) -> int:
    """How many separate layers of one of ours have LoRA among `names`: 1 where none are separate, at most 3."""
    found: dict[str, set[int]] = {}
    for place in map(_placed, names):
        if place is not None and place.parts > 1:
            found.setdefault(place.layer, set()).add(place.part)
    return max((len(parts) for parts in found.values()), default=1)


def with_joined_lora(files: Sequence[TensorFile]) -> list[TensorFile]:
    """The files of an adapter with its separate layers joined; each tensor is computed when it is read.

    Raises:
        CheckpointError: half of a LoRA, or parts whose size nothing tells.
    """
    count = separate_parts(name for file in files for name in file.entries)
    if count == 1:
        return list(files)
    layers: dict[str, _Pairs] = {}
    for file in files:
        for name in file.entries:
            place = _placed(name)
            if place is not None:
                layers.setdefault(place.layer, {}).setdefault(place.part, {})[place.letter] = (file, name)
    first, *others = ({k: v for k, v in file.entries.items() if _placed(k) is None} for file in files)
    computed = dict(files[0].computed)
    for layer, pairs in layers.items():
        for letter in "abm" if any("m" in pair for pair in pairs.values()) else "ab":
            name = f"{layer}{LORA_NAME}{letter}"
            shape, dtype = _shape(files[0], layer, pairs, letter, count)
            first[name] = Entry(name, dtype, shape, (), strides=())
            computed[name] = partial(_joined, pairs, letter, shape, _rows(files[0], layer, pairs))
    made = [TensorFile(files[0].path, files[0].format, first, files[0].metadata, computed)]
    for file, entries in zip(files[1:], others, strict=True):
        made.append(TensorFile(file.path, file.format, entries, file.metadata, file.computed))
    return made


def _placed(name: str) -> _Place | None:
    """What a LoRA of transformers' networks belongs to here; None for another name."""
    found = _LORA.match(name)
    if found is None:
        return None
    block = NATIVE_BLOCKS.get(_NUMBER.sub(".layers.{}.", found.group(1) + ".weight", count=1))
    if block is None:
        return None
    ours, part, parts = block
    letter = (found.group(3) or found.group(4)).lower()
    return _Place(ours.format(found.group(2)).removesuffix(".weight"), part, parts, letter)


def _shape(file: TensorFile, layer: str, pairs: _Pairs, letter: str, count: int) -> tuple[tuple[int, ...], str]:
    if any(set(pair) - {"m"} != {"a", "b"} for pair in pairs.values()):
        raise CheckpointError(str(file.path), f"{layer} has half of a LoRA", "Copy the adapter again.")
    if letter == "m":
        return _magnitude_shape(file, layer, pairs)
    place, name = next(iter(pairs.values()))["a"]
    entry = place.entries[name]
    rank, columns = entry.shape
    rows = sum(_rows(file, layer, pairs))
    return ((rank * count, columns) if letter == "a" else (rows, rank * count)), entry.dtype


def _magnitude_shape(file: TensorFile, layer: str, pairs: _Pairs) -> tuple[tuple[int, ...], str]:
    """Of DoRA's lengths of the rows: of every part, because those of a part without are in the base alone."""
    rows = _rows(file, layer, pairs)
    if len(pairs) < len(rows) or not all("m" in pair for pair in pairs.values()):
        raise CheckpointError(str(file.path), f"{layer} has DoRA on some of its parts only", "Merge it with peft.")
    place, name = next(iter(pairs.values()))["m"]
    return (sum(rows),), place.entries[name].dtype


def _rows(file: TensorFile, layer: str, pairs: _Pairs) -> list[int]:
    """Rows of the parts of a layer; key and value have as many."""
    known = {
        part: place.entries[name].shape[0] for part, (place, name) in ((p, pair["b"]) for p, pair in pairs.items())
    }
    if not any(
        (_placed(name) or _Place("", 0, 1, "")).parts > 1 for pair in pairs.values() for _, name in pair.values()
    ):
        return [known[0]]
    key = known.get(1, known.get(2))
    if 0 not in known or key is None:
        fault = (
            f"{layer} has LoRA on {'the query' if 0 in known else 'key or value'} alone: nothing tells the other rows"
        )
        raise CheckpointError(str(file.path), fault, "Merge it with peft.")
    return [known[0], key, key]


def _joined(pairs: _Pairs, letter: str, shape: tuple[int, ...], rows: list[int], start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of the matrix A or B of all parts, zeros elsewhere, or of their magnitudes."""
    if letter == "m":
        found = [pair[letter][0].read_bits(pair[letter][1]).reshape(-1) for _, pair in sorted(pairs.items())]
        return np.concatenate(found)[start:stop]
    file, name = next(iter(pairs.values()))[letter]
    whole = np.zeros(shape, DTYPES[file.entries[name].dtype].storage)
    for place, (part, pair) in enumerate(sorted(pairs.items())):
        file, name = pair[letter]
        given = file.read_bits(name)
        rank = given.shape[0 if letter == "a" else 1]
        span = slice(place * rank, (place + 1) * rank)
        if letter == "a":
            whole[span] = given
        else:
            whole[sum(rows[:part]) : sum(rows[: part + 1]), span] = given
    return whole[start:stop]
