"""The weights of a network by what they do, wherever they lie: in MindSpore's parameters, or in arrays over files.

What computes without Cells takes a network in this form. No MindSpore here. Shapes: L layers, K kv heads,
E head_dim, P prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import numpy as np

from mindformers_glm.models.interface import NetworkConfig


class Held(Protocol):
    """A tensor in memory: MindSpore's Parameter is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> Any:
        """Its type, whose text is a type's name."""
        ...

    def data_ptr(self) -> int:
        """Where its first number is now."""
        ...

    def asnumpy(self) -> np.ndarray:
        """Its numbers, not copied."""
        ...


def kept(held: Held) -> tuple[np.ndarray, bool]:
    """The numbers of a tensor, not copied, and whether they have the order of the kernels, both of one moment."""
    found: tuple[np.ndarray, bool] | None = getattr(held, "kept", None)
    return (held.asnumpy(), False) if found is None else found


class LowRank(NamedTuple):
    """A LoRA: y = W x + scale * up (down x); with DoRA's `magnitude` as LoraConfig says.

    `factor` gives what DoRA multiplies each row of the sum by, `merged` the float32 weight that does the same as all.
    """

    down: Held
    up: Held
    scale: float
    magnitude: Held | None = None
    factor: Callable[[], np.ndarray] | None = None
    merged: Callable[[], np.ndarray] | None = None


class WholeNumbers(NamedTuple):
    """What a W8A8 layer has beside its int8 weight (ops/w8a8.py); `input` is scale and offset."""

    deq_scale: Held
    quant_bias: Held
    input: tuple[float, float]


class LinearWeights(NamedTuple):
    """A linear layer. `scale` belongs to integers, (rows, columns / group) of float16."""

    weight: Held
    bias: Held | None = None
    scale: Held | None = None
    group: int = 0
    low_rank: LowRank | None = None
    whole: WholeNumbers | None = None

    @property
    def columns(self) -> int:
        """Inputs of the layer; two integers of 4 bits share a byte."""
        return self.weight.shape[1] if self.scale is None else self.scale.shape[1] * self.group


class NormWeights(NamedTuple):
    """RMSNorm, or LayerNorm where there is a bias."""

    weight: Held
    bias: Held | None = None


class BlockWeights(NamedTuple):
    """One layer, as models.interface.BlockParts names its parts."""

    attention_norm: NormWeights
    qkv: LinearWeights
    out: LinearWeights
    after_attention: NormWeights | None
    mlp_norm: NormWeights
    gate_up: LinearWeights
    down: LinearWeights
    after_mlp: NormWeights | None


class NetworkWeights(NamedTuple):
    """A whole network. `table` is that of the token embedding, `rotary` that of positions.

    `prefix` (P, L * 2 * K * E) are the keys and values that every sequence sees first. `version` changes when weights
    do; None: they never do, and stay where they are; the tensors then are those of assembly/held.py.
    """

    config: NetworkConfig
    rotary: np.ndarray
    table: LinearWeights
    blocks: tuple[BlockWeights, ...]
    final_norm: NormWeights | None
    head: LinearWeights
    prefix: Held | None = None
    version: Callable[[], Hashable] | None = None


LINEAR = ("qkv", "out", "gate_up", "down")  # of a block


def linear_layers(network: NetworkWeights) -> list[LinearWeights]:
    """Every linear layer in a fixed order: the head, then those of each block."""
    return [network.head, *(getattr(block, name) for block in network.blocks for name in LINEAR)]
