"""Linear layers that compute in whole numbers, with one scale for the inputs: a network with W8A8 weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.errors import CheckpointError
from mindformers_glm.mindspore_private import forget_graphs
from mindformers_glm.models.linear import Linear
from mindformers_glm.ops.kernels.operators import Chosen, operator
from mindformers_glm.ops.w8a8 import Layer

_EXACT = 1024  # inputs of which products of whole numbers below 129 add up exactly in float32


class W8A8Linear(nn.Cell):
    """The layer of ops/w8a8.py: y = (x_q W' + quant_bias) * deq_scale. Sums are exact. Unverified on Ascend."""

    is_plain = False

    def __init__(self, layer: Layer, *, dtype: ms.Type) -> None:
        super().__init__()
        self.out_channels, self.in_channels = layer.quant_weight.shape
        self.dtype = dtype
        self.input = (float(layer.input_scale[0]), float(layer.input_offset[0]))
        self.weight = _kept(layer.quant_weight, "weight")
        self.quant_bias = _kept(layer.quant_bias, "quant_bias")
        self.deq_scale = _kept(layer.deq_scale, "deq_scale")
        self.bias = None
        if self.input[0] == 0 and layer.fp_bias.any():
            self.bias = _kept(layer.fp_bias, "bias")
        self.has_bias, self._fp_bias, self._weight_scale = bool(layer.fp_bias.any()), layer.fp_bias, layer.weight_scale
        self.matmul = W8A8Matmul(*self.input, columns=self.in_channels)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, in) -> (N, out)."""
        y = self.matmul(ops.cast(x, ms.float32), self.weight, self.deq_scale, self.quant_bias)
        return ops.cast(y if self.bias is None else y + self.bias, self.dtype)

    def floats(self) -> dict[str, np.ndarray]:
        """The float32 weight (out, in) and bias (out) that the whole numbers stand for."""
        return {"weight": self.weight.asnumpy() * self._weight_scale, "bias": self._fp_bias}


class W8A8Matmul(Chosen):
    """Rows (N, in) times whole numbers (out, in): by the kernel where there is one, otherwise exactly in float32.

    The formula adds pieces of 1,024 inputs as int32. An input_scale of 0 is one for each row, max|x| / 127.
    """

    def __init__(self, scale: float, offset: float, *, columns: int):
        super().__init__(None if columns % 4 else _Kernel)
        self.scale, self.offset = scale, offset
        self.input = Tensor(np.array([scale, offset], np.float32))
        self.borders = tuple((begin, min(begin + _EXACT, columns)) for begin in range(0, columns, _EXACT))
        self.round, self.largest = ops.Rint(), ops.ReduceMax(keep_dims=True)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor, deq_scale: Tensor, quant_bias: Tensor) -> Tensor:
        """X (N, in) float32, weight (out, in) int8, deq_scale (out) float32, quant_bias (out) int32 -> (N, out)."""
        if self.kernel_fits(x):
            return self.kernel(x, weight, deq_scale, quant_bias, self.input)
        if self.scale > 0:
            whole = ops.minimum(ops.maximum(self.round(x / self.scale + self.offset), -128.0), 127.0)
            return ops.cast(self.sums(whole, weight, quant_bias), ms.float32) * deq_scale
        own = self.largest(ops.abs(x), 1) / 127.0
        whole = self.round(x / ops.select(own > 0, own, ops.ones_like(own)))
        return ops.cast(self.sums(whole, weight, quant_bias), ms.float32) * deq_scale * own

    def sums(self, whole: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        """The int32 sums (N, out) of products of whole numbers, added to `total`."""
        wide = ops.cast(weight, ms.float32)
        for begin, end in self.borders:
            total = total + ops.cast(self.matmul(whole[:, begin:end], wide[:, begin:end]), ms.int32)
        return total


class _Kernel(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.forward = operator("GlmLinearW8A8", lambda x, w, *_: (x[0], w[0]))

    def construct(self, x: Tensor, weight: Tensor, deq_scale: Tensor, quant_bias: Tensor, given: Tensor) -> Tensor:
        return self.forward(x, weight, deq_scale, quant_bias, given)


def w8a8_layers(model: nn.Cell) -> dict[str, W8A8Linear]:
    """The W8A8 layers of a network, by the names of their weights without `.weight`."""
    cells = (cell for _, cell in model.cells_and_names() if isinstance(cell, W8A8Linear))
    return {cell.weight.name.removesuffix(".weight"): cell for cell in cells}


def make_w8a8(
    model: nn.Cell,
    layers: Mapping[str, Layer],
    *,
    place: str = "W8A8 weights",
    part: Callable[[str, Layer], Layer] = lambda name, layer: layer,
) -> None:
    """Replaces the linear layers of a network that `layers` names, in place; the others stay as they are.

    `part` makes of a layer what this rank of a divided network holds.

    Raises:
        CheckpointError: a layer that the network does not have, or has in another shape. Nothing is changed then.
    """
    cells = dict(model.cells_and_names())
    places = {name: f"{name}.layer" if f"{name}.layer" in cells else name for name in layers}  # within a parallel Cell
    own = {}
    for name, layer in layers.items():
        cell = cells.get(places[name])
        if type(cell) is not Linear:
            fault = f"the network has no plain linear layer {name}"
            raise CheckpointError(place, fault, "Name the weights of this model.")
        own[name] = part(name, layer)
        if own[name].quant_weight.shape != (cell.out_channels, cell.in_channels):
            fault = f"{name} has shape {layer.quant_weight.shape}, the network {(cell.out_channels, cell.in_channels)}"
            raise CheckpointError(place, fault, "Name the weights of this model.")
    names = {id(parameter): parameter.name for parameter in model.get_parameters()}
    for name, path in places.items():
        parent, _, leaf = path.rpartition(".")
        made = W8A8Linear(own[name], dtype=cells[path].dtype)
        names.update({id(parameter): f"{name}.{parameter.name}" for parameter in made.get_parameters()})
        if path != name and getattr(cells[name], "bias", None) is not None:
            cells[name].bias = None  # of a sum over ranks: it is among the whole numbers of the first one
        setattr(cells[parent], leaf, made)
    forget_graphs(model)
    object.__setattr__(model, "_cached", None)
    for parameter in model.get_parameters():
        parameter.name = names[id(parameter)]


def _kept(values: np.ndarray, name: str) -> Parameter:
    return Parameter(Tensor(np.ascontiguousarray(values)), name=name, requires_grad=False)
