"""Linear layers that compute in whole numbers, with one scale for the inputs: a network with W8A8 weights."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.errors import CheckpointError
from mindformers_glm.mindspore_private import forget_graphs
from mindformers_glm.models.linear import Linear
from mindformers_glm.quantization.w8a8 import Layer

_EXACT = 1024  # inputs of which products of whole numbers below 128 add up exactly in float32


class W8A8Linear(nn.Cell):
    """y = (x_q W' + quant_bias) * deq_scale with x_q = clip(round(x / input_scale + input_offset), -128, 127).

    Sums are exact: pieces of 1,024 inputs in float32, added as int32. Unverified on Ascend.
    """

    is_plain = False

    def __init__(self, layer: Layer, *, dtype: ms.Type) -> None:
        super().__init__()
        self.out_channels, self.in_channels = layer.quant_weight.shape
        self.dtype = dtype
        self.bias = None
        self.weight = _kept(layer.quant_weight, "weight")
        self.quant_bias = _kept(layer.quant_bias, "quant_bias")
        self.deq_scale = _kept(layer.deq_scale, "deq_scale")
        self.input_scale = _kept(layer.input_scale, "input_scale")
        self.input_offset = _kept(layer.input_offset, "input_offset")
        self.borders = tuple(
            (begin, min(begin + _EXACT, self.in_channels)) for begin in range(0, self.in_channels, _EXACT)
        )
        self.round = ops.Rint()
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, in) -> (N, out)."""
        wide = ops.cast(x, ms.float32)
        whole = ops.clamp(self.round(wide / self.input_scale + self.input_offset), -128.0, 127.0)
        weight = ops.cast(self.weight, ms.float32)
        total = self.quant_bias
        for begin, end in self.borders:
            total = total + ops.cast(self.matmul(whole[:, begin:end], weight[:, begin:end]), ms.int32)
        return ops.cast(ops.cast(total, ms.float32) * self.deq_scale, self.dtype)


def make_w8a8(model: nn.Cell, layers: Mapping[str, Layer], *, place: str = "W8A8 weights") -> None:
    """Replaces the linear layers of a network that `layers` names, in place; the others stay as they are.

    Raises:
        CheckpointError: a layer that the network does not have, or has in another shape. Nothing is changed then.
    """
    cells = dict(model.cells_and_names())
    for name, layer in layers.items():
        cell = cells.get(name)
        if type(cell) is not Linear:
            raise CheckpointError(
                place, f"the network has no plain linear layer {name}", "Name the weights of this model."
            )
        if layer.quant_weight.shape != (cell.out_channels, cell.in_channels):
            fault = f"{name} has shape {layer.quant_weight.shape}, the network {(cell.out_channels, cell.in_channels)}"
            raise CheckpointError(place, fault, "Name the weights of this model.")
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(cells[parent], leaf, W8A8Linear(layer, dtype=cells[name].dtype))
    forget_graphs(model)
    object.__setattr__(model, "_cached", None)
    for path, parameter in model.parameters_and_names():
        parameter.name = path


def _kept(values: np.ndarray, name: str) -> Parameter:
    return Parameter(Tensor(np.ascontiguousarray(values)), name=name, requires_grad=False)
