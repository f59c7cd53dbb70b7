"""Layers whose weight is held as integers."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.mindspore_private import forget_graphs
from mindformers_glm.models.linear import INIT_SIGMA, Linear
from mindformers_glm.ops.linear import QuantizedMatmul, matrix_type
from mindformers_glm.ops.quantized import (
    SCALE,
    Quantized,
    exactly,
    layer_bits,
    packed_columns,
    quantize,
    relative_error,
)


class IntegerWeight:
    """What has `weight` (N, packed) in int8, or uint8 for 4 bits, and `weight_scale` (N, in / group)."""

    bits: int
    group_size: int
    in_channels: int
    out_channels: int
    weight: Parameter
    weight_scale: Parameter
    error: float | None = None  # relative, of the weight that was taken

    def take(self, weight: np.ndarray, scales: np.ndarray | None = None) -> Quantized:
        """Takes the integers nearest to a float weight (out, in), and returns them.

        With `scales` (out, groups) of the integers that the weight was before, it is taken as these where it can be.
        """
        settings = {"bits": self.bits, "group_size": self.group_size}
        found = None if scales is None else exactly(weight, scales, **settings)
        if found is None:
            found = quantize(weight, **settings)
        self.error = relative_error(found, weight, bits=self.bits)
        self.weight.set_data(Tensor(found.weight))
        self.weight_scale.set_data(Tensor(found.scale))
        return found


class QuantizedLinear(IntegerWeight, nn.Cell):
    """A linear layer whose weight is held as integers."""

    is_plain = False

    def __init__(
        self,
        columns: int,
        rows: int,
        *,
        bits: int,
        group_size: int,
        bias: Parameter | None,
        dtype: ms.Type,
        rounded: bool = False,
    ):
        nn.Cell.__init__(self)
        self.in_channels, self.out_channels = columns, rows
        self.bits, self.group_size, self.dtype, self.bias = bits, group_size, dtype, bias
        self.matmul = QuantizedMatmul(bits=bits, columns=columns, rounded=rounded)
        whole = np.zeros((rows, packed_columns(columns, bits)), np.int8 if bits == 8 else np.uint8)
        scale = np.zeros((rows, columns // group_size), np.float16)
        self.weight = Parameter(Tensor(whole), name="weight", requires_grad=False)
        self.weight_scale = Parameter(Tensor(scale), name="weight" + SCALE, requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        """Rows x W^T + b in `compute_dtype`: (N, in) -> (N, out)."""
        return self.matmul(ops.cast(x, self.dtype), self.weight, self.weight_scale, self.bias)


def quantized_layers(model: nn.Cell) -> dict[str, IntegerWeight]:
    """The quantised layers of a network, by the names of their weights."""
    return {cell.weight.name: cell for _, cell in model.cells_and_names() if isinstance(cell, IntegerWeight)}


def fill_integers(model: nn.Cell, *, seed: int = 0) -> None:
    """Gives a network without weights random integers, whose floats spread as far as those of Normal(0.02)."""
    for i, cell in enumerate(quantized_layers(model).values()):
        random = np.random.default_rng((seed, i))
        whole = np.frombuffer(random.bytes(cell.weight.size), np.int8 if cell.bits == 8 else np.uint8)
        cell.weight.set_data(Tensor(whole.reshape(cell.weight.shape)))
        spread = INIT_SIGMA / (2**cell.bits / 12**0.5)  # of whole numbers that are all as likely
        cell.weight_scale.set_data(Tensor(np.full(cell.weight_scale.shape, spread, np.float16)))


def make_quantized(model: nn.Cell, *, bits: int, group_size: int) -> dict[str, tuple[nn.Cell, QuantizedLinear]]:
    """Replaces every plain linear layer by a quantised one that is still empty: path -> (the old, the new)."""
    replaced = {}
    cells, head = dict(model.cells_and_names()), model.parts.head
    rounded = matrix_type(model.config.compute_dtype)[1]
    for path, cell in cells.items():
        if type(cell) is not Linear:
            continue
        made = QuantizedLinear(
            cell.in_channels,
            cell.out_channels,
            bits=layer_bits(bits, is_head=cell is head),
            group_size=group_size,
            bias=cell.bias,
            dtype=cell.dtype,
            rounded=rounded,
        )
        parent, _, name = path.rpartition(".")
        setattr(cells[parent], name, made)
        replaced[path] = (cell, made)
    forget_graphs(model)  # graphs of the network as it was
    object.__setattr__(model, "_cached", None)
    for path, parameter in model.parameters_and_names():
        parameter.name = path  # a weight that moved into a new Cell has lost its path
    return replaced
