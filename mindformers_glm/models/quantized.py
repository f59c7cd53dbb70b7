"""Layers whose weight is held as integers."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.mindspore_private import forget_graphs
from mindformers_glm.models.linear import Linear
from mindformers_glm.ops.linear import QuantizedProduct
from mindformers_glm.ops.quantized import (
    SCALE,
    Quantized,
    exactly,
    layer_bits,
    packed_columns,
    quantize,
    relative_error,
)


class QuantizedLinear(nn.Cell):
    """A linear layer with `weight` (N, packed) in int8, or uint8 for 4 bits, and `weight_scale` (N, in / group)."""

    is_plain = False

    def __init__(self, columns: int, rows: int, *, bits: int, group_size: int, bias: Parameter | None, dtype: ms.Type):
        super().__init__()
        self.in_channels, self.out_channels = columns, rows
        self.bits, self.group_size, self.dtype, self.bias = bits, group_size, dtype, bias
        self.product = QuantizedProduct(bits=bits, columns=columns)
        self.error: float | None = None  # relative, of the weight that was taken
        whole = np.zeros((rows, packed_columns(columns, bits)), np.int8 if bits == 8 else np.uint8)
        scale = np.zeros((rows, columns // group_size), np.float16)
        self.weight = Parameter(Tensor(whole), name="weight", requires_grad=False)
        self.weight_scale = Parameter(Tensor(scale), name="weight" + SCALE, requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        """Rows x W^T + b in `compute_dtype`: (N, in) -> (N, out)."""
        return self.product(ops.cast(x, self.dtype), self.weight, self.weight_scale, self.bias)

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


def quantized_layers(model: nn.Cell) -> dict[str, QuantizedLinear]:
    """The quantised layers of a network, by the names of their weights."""
    return {cell.weight.name: cell for _, cell in model.cells_and_names() if isinstance(cell, QuantizedLinear)}


def make_quantized(model: nn.Cell, *, bits: int, group_size: int) -> dict[str, tuple[nn.Cell, QuantizedLinear]]:
    """Replaces every plain linear layer by a quantised one that is still empty: path -> (the old, the new)."""
    replaced = {}
    cells, head = dict(model.cells_and_names()), model.parts.head
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
        )
        parent, _, name = path.rpartition(".")
        setattr(cells[parent], name, made)
        replaced[path] = (cell, made)
    forget_graphs(model)  # graphs of the network as it was
    object.__setattr__(model, "_cached", None)
    for path, parameter in model.parameters_and_names():
        parameter.name = path  # a weight that moved into a new Cell has lost its path
    return replaced
