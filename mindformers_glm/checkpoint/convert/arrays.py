"""What weights to write are read from, and arrays in memory as such a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from mindformers_glm.checkpoint.formats.blocks import array_blocks
from mindformers_glm.checkpoint.formats.dtypes import bits_of, name_of


class Source(Protocol):
    """What weights to write are read from: a file or folder (WeightSource), arrays, a base with its adapter, ranks."""

    path: Path

    @property
    def names(self) -> list[str]:
        """Our names."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        ...

    def dtype(self, name: str) -> str:
        """Our name of its type."""
        ...

    def read_bits(self, name: str) -> np.ndarray:
        """Its bits."""
        ...

    def blocks(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows as flat blocks."""
        ...


class ArraySource:
    """Arrays in memory under our names, as a source for writing."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.path, self._arrays = Path("arrays"), dict(arrays)

    @property
    def names(self) -> list[str]:
        """Names in the given order."""
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one array."""
        return self._arrays[name].shape

    def dtype(self, name: str) -> str:
        """Our name of its type."""
        return name_of(self._arrays[name])

    def read_bits(self, name: str) -> np.ndarray:
        """Its bits."""
        return bits_of(self._arrays[name])

    def blocks(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows as flat blocks."""
        return array_blocks(self.read_bits(name), start, stop)
