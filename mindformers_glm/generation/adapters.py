"""Several LoRA adapters of one base model in the same batch, computed by the kernels: the matmul with the base weight
is done once for all sequences, those with the low-rank matrices once for each adapter (Chen et al., Punica, 2023).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from mindformers_glm.models.described import Held, LinearWeights
from mindformers_glm.ops.kernels.structures import LinearStruct, LoraStruct, address, kind_of

_ROOM = 4  # initial length of each array, in adapters


class AdapterTable:
    """The adapters of every linear layer, by number, in arrays that the kernels index. Number 0 is the network's own.

    The kernels read the parameters of an adapter in place, where they are when it is added; nothing is copied.
    """

    def __init__(self, structures: Sequence[LinearStruct]) -> None:
        self._structures = list(structures)
        self._arrays = [(LoraStruct * _ROOM)() for _ in self._structures]
        self._kept: dict[int, list[object]] = {}
        self._next = 1
        self._link()

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of the adapters that are held; 0 is the network's own."""
        return frozenset(self._kept)

    def put_own(self, place: int, down: LinearStruct, up: LinearStruct, scale: float) -> None:
        """The network's own adapter of the layer at `place` of `linear_layers`."""
        self._put(0, place, down, up, scale)

    def add(self, layers: Sequence[LinearWeights]) -> int:
        """Adds the adapter that these linear layers of another network over the same base have; returns its number."""
        number, self._next = self._next, self._next + 1
        if number >= len(self._arrays[0]):
            self._grow()
        self._kept[number] = []
        for place, layer in enumerate(layers):
            low = layer.low_rank
            if low is not None:
                self._put(number, place, _matrix(low.down), _matrix(low.up), low.scale)
                self._kept[number].append(low)
                if low.factor is not None and low.magnitude is not None:
                    factor = np.ascontiguousarray(low.factor(), np.float32)
                    self._kept[number].append(factor)
                    self._arrays[place][number].factor = address(factor)
        return number

    def remove(self, number: int) -> None:
        """Removes an adapter; its number is not used again."""
        for array in self._arrays:
            array[number] = LoraStruct()
        self._kept.pop(number, None)

    def _put(self, number: int, place: int, down: LinearStruct, up: LinearStruct, scale: float) -> None:
        self._kept.setdefault(number, []).extend((down, up))
        entry = self._arrays[place][number]
        entry.a, entry.b, entry.scale = ctypes.pointer(down), ctypes.pointer(up), scale

    def _grow(self) -> None:
        for place, old in enumerate(self._arrays):
            self._arrays[place] = (LoraStruct * (2 * len(old)))(*old)
        self._link()

    def _link(self) -> None:
        for structure, array in zip(self._structures, self._arrays, strict=True):
            structure.loras, structure.num_loras = array, len(array)


def _matrix(held: Held) -> LinearStruct:
    rows, columns = held.shape
    return LinearStruct(rows=rows, columns=columns, kind=kind_of(held.dtype), weight=held.data_ptr())
