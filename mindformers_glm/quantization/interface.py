"""What a quantisation scheme is: how a linear layer's weight is held, computed with, written, and what that needs.

A new one is a file in schemes/ and a line in schemes/registered.py. Shapes: N outputs, K inputs, T rows, g group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import SCHEMES

DEFAULTS = {4: "int4", 8: "int8"}  # quantization_bit -> the scheme where none is named


class Inputs(NamedTuple):
    """What calibration has seen of a layer's inputs."""

    low: float
    high: float
    squares: np.ndarray | None = None  # (K, K): mean of x x', for rounding that feeds errors forward


class Scheme(ABC):
    """One way to hold and multiply a weight.

    - `name`: what YAML, AutoModel, tools and the benchmark call it; `bits` of a weight;
    - `stores`: the tensors of a layer NAME, suffix -> what it is;
    - `computes`: what its matmul does, in words; `exports`: forms of `convert --to` that hold it exactly;
    - `needs`: "rows" where inputs must have been seen;
    - `group_sizes`: what `group_size` may be, 0 a whole row.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    stores: ClassVar[Mapping[str, str]]
    computes: ClassVar[str]
    exports: ClassVar[tuple[str, ...]] = ("ours",)
    needs: ClassVar[tuple[str, ...]] = ()
    group_sizes: ClassVar[tuple[int, ...]] = (0,)

    def network_keys(self, group_size: int | None = None) -> dict[str, Any]:
        """Keys of model_config that make a network of this scheme.

        Raises:
            ConfigError: it has no such groups.
        """
        group = self.group(group_size)
        return {"quantization_scheme": self.name, "quantization_bit": self.bits, "quantization_group_size": group}

    def group(self, group_size: int | None, key: str = "quantization.group_size") -> int:
        """The size of a group, 0 for a whole row; None is the usual one.

        Raises:
            ConfigError: it has no such groups.
        """
        if group_size is None:
            return self.group_sizes[0]
        if group_size not in self.group_sizes:
            there = " or ".join(map(str, self.group_sizes))
            told = f"groups of {there}" if self.group_sizes != (0,) else "one scale for a whole row: leave it out"
            raise ConfigError(key, group_size, f"The scheme {self.name} has {told}.")
        return group_size

    @abstractmethod
    def quantise(
        self, weight: np.ndarray, *, group_size: int, bias: np.ndarray | None = None, inputs: Inputs | None = None
    ) -> Any:
        """What `dequantise` and `matmul` take, of a float weight (N, K) with groups of `group_size` columns.

        Several threads call it at once, each with some rows of a weight: nothing of one call is kept for the next.

        Raises:
            ConfigError: it needs inputs that were seen, and there are none.
        """

    @abstractmethod
    def dequantise(self, layer: Any, columns: int) -> np.ndarray:
        """The float32 weight (N, K) that a layer stands for."""

    def matmul(self, x: np.ndarray, layer: Any, bias: np.ndarray | None = None) -> np.ndarray:
        """The outputs (T, N) for inputs x (T, K), as the scheme means them, by NumPy."""
        y = x.astype(np.float32) @ self.dequantise(layer, x.shape[1]).T
        return y if bias is None else y + bias

    def about(self) -> str:
        """One line for people."""
        needs = f"; needs {', '.join(self.needs)}" if self.needs else ""
        return f"{self.name}: {self.computes}{needs}; exact in {', '.join(self.exports)}"


def scheme_of(name: str, key: str = "quantization.scheme") -> Scheme:
    """The scheme of a name.

    Raises:
        ConfigError: there is none.
    """
    return SCHEMES.get(name, key)()


def scheme_names() -> list[str]:
    """The name of every scheme."""
    schemes: list[Any] = [SCHEMES.get(name) for name in SCHEMES.names()]
    return sorted({scheme.name for scheme in schemes})
