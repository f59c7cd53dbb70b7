"""LoRA that was trained on query, key and value apart, as one LoRA on the layer that holds them here.

With y = W x + s B A x for each of the three, the matrices A stand below each other in one, and the matrices B are the
blocks on the diagonal of the other: the sum is the same, exactly. The rank is that of all parts together, and so is
alpha, whose ratio to the rank is what scales.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from mindformers_glm.checkpoint.formats.blocks import BLOCK_BYTES, array_blocks
from mindformers_glm.checkpoint.load.names import LORA_NAME, NATIVE_BLOCKS, is_adapter
from mindformers_glm.checkpoint.load.source import Piece, WeightSource
from mindformers_glm.errors import CheckpointError

_LORA = re.compile(r"^(?:base_model\.model\.)?(model\.layers\.(\d+)\.\w+\.\w+)\.lora_([AB])(?:\.default)?\.weight$")
_NUMBER = re.compile(r"\.layers\.(\d+)\.")


def parts_of(names: list[str]) -> int:
    """How many separate layers of one of ours have LoRA among `names`: 1 where none are separate, at most 3."""
    found: dict[str, set[int]] = {}
    for name in names:
        place = _placed(name)
        if place is not None and place[2] > 1:
            found.setdefault(place[0], set()).add(place[1])
    return max((len(parts) for parts in found.values()), default=1)


def joined(source: WeightSource) -> WeightSource:
    """The adapter with its separate layers joined; the source itself where none are separate.

    Raises:
        CheckpointError: parts are missing whose size nothing tells.
    """
    if parts_of(source.unknown) == 1:
        return source
    return JoinedLora(source)


class JoinedLora(WeightSource):
    """A WeightSource of an adapter alone, whose tensors are made when they are read. Every layer has the same rank."""

    def __init__(self, source: WeightSource) -> None:
        self.__dict__.update(source.__dict__)
        self.count = parts_of(source.unknown)
        self._parts: dict[str, dict[int, dict[str, Piece]]] = {}
        files = {name: file for file in source.files for name in file.entries}
        rest = []
        for name in source.unknown:
            place = _placed(name)
            if place is None or place[2] == 1:
                rest.append(name)
                continue
            layer, part, _, letter = place
            self._parts.setdefault(layer, {}).setdefault(part, {})[letter] = Piece(files[name], name)
        self.unknown = rest
        self._plain = [name for name in source.names if is_adapter(name)]
        self._pieces = {name: source.pieces(name) for name in self._plain}
        for layer, parts in self._parts.items():
            if any(set(pair) != {"a", "b"} for pair in parts.values()):
                raise CheckpointError(str(self.path), f"{layer} has half of a LoRA", "Copy the adapter again.")
            if set(parts) == {0}:
                fault = f"{layer} has LoRA on the query alone, and nothing tells how many rows key and value have"
                raise CheckpointError(str(self.path), fault, "Merge it with peft.")
            for letter in "ab":
                self._pieces[f"{layer}{LORA_NAME}{letter}"] = [pair[letter] for pair in parts.values()]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the joined tensor."""
        layer, _, letter = name.partition(LORA_NAME)
        if layer not in self._parts:
            shape = super().shape(name)
            return (shape[0] * self.count, shape[1]) if letter == "a" else (shape[0], shape[1] * self.count)
        rank, columns = next(iter(self._parts[layer].values()))["a"].shape
        return (rank * self.count, columns) if letter == "a" else (sum(self._rows(layer)), rank * self.count)

    def read_bits(self, name: str) -> np.ndarray:
        """The joined tensor: zeros where there is no part."""
        layer, _, letter = name.partition(LORA_NAME)
        shape = self.shape(name)
        if layer not in self._parts:
            given = super().read_bits(name)
            whole = np.zeros(shape, given.dtype)
            whole[: given.shape[0], : given.shape[1]] = given
            return whole
        rows, rank = self._rows(layer), shape[1 if letter == "b" else 0] // self.count
        whole = None
        for place, (part, pair) in enumerate(sorted(self._parts[layer].items())):
            given = pair[letter].file.read_bits(pair[letter].name)
            whole = np.zeros(shape, given.dtype) if whole is None else whole
            start = sum(rows[:part])
            span = slice(place * rank, (place + 1) * rank)
            if letter == "a":
                whole[span] = given
            else:
                whole[start : start + rows[part], span] = given
        return whole

    def blocks(self, name: str, start: int, stop: int, *, block_bytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
        """Rows of the joined tensor."""
        yield from array_blocks(self.read_bits(name), start, stop, block_bytes)

    def _rows(self, layer: str) -> list[int]:
        """Rows of query, key and value; key and value have as many."""
        parts = self._parts[layer]
        known = {part: pair["b"].shape[0] for part, pair in parts.items()}
        key = known.get(1, known.get(2))
        if 0 not in known:
            fault = f"{layer} has LoRA on key or value, and nothing tells how many rows the query has"
            raise CheckpointError(str(self.path), fault, "Merge it with peft.")
        return [known[0], key, key]


def _placed(name: str) -> tuple[str, int, int, str] | None:
    """Our layer, the part of it, how many parts it has, and a or b; None for a name that is no such LoRA."""
    found = _LORA.match(name)
    if found is None:
        return None
    pattern = _NUMBER.sub(".layers.{}.", found.group(1) + ".weight", count=1)
    if pattern not in NATIVE_BLOCKS:
        return None
    ours, part, parts = NATIVE_BLOCKS[pattern]
    return ours.format(found.group(2)).removesuffix(".weight"), part, parts, found.group(3).lower()
