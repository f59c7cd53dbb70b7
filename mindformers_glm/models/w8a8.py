"""Linear layers that compute in whole numbers, with one scale for the inputs: a network with W8A8 weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.errors import CheckpointError
from mindformers_glm.mindspore_private import forget_graphs
from mindformers_glm.models.linear import Linear
from mindformers_glm.ops.kernels.operators import Chosen, operator
from mindformers_glm.ops.linear import Matmul
from mindformers_glm.ops.w8a8 import Layer

_EXACT = 1024  # inputs of which products of whole numbers below 129 add up exactly in float32


class W8A8Linear(nn.Cell):
    """The layer of ops/w8a8.py: y = (x_q W' + quant_bias) * deq_scale. Sums are exact. Unverified on Ascend."""

    is_plain = False

    def __init__(self, layer: Layer, *, dtype: ms.Type) -> None:
        super().__init__()
        self.out_channels, self.in_channels = layer.quant_weight.shape
        self.dtype = dtype
        self.is_per_token = not layer.input_scale[0] > 0
        self.input_scale: Any = None  # one for each row
        if not self.is_per_token:
            self.input_scale = _kept(layer.input_scale.reshape(1), "input_scale")
            self.input_offset = _kept(layer.input_offset.reshape(1), "input_offset")
        self.weight = _kept(layer.quant_weight, "weight")
        self.quant_bias = _kept(layer.quant_bias, "quant_bias")
        self.deq_scale = _kept(layer.deq_scale, "deq_scale")
        self.bias = None
        if self.is_per_token and layer.fp_bias.any():
            self.bias = _kept(layer.fp_bias, "bias")
        self.has_bias, self._fp_bias, self._weight_scale = bool(layer.fp_bias.any()), layer.fp_bias, layer.weight_scale
        self.matmul = W8A8Matmul(self.in_channels)

    @property
    def input(self) -> tuple[float, float]:
        """Scale and offset of the inputs; a scale of 0 is one for each row."""
        if self.is_per_token:
            return 0.0, 0.0
        return float(self.input_scale.asnumpy()[0]), float(self.input_offset.asnumpy()[0])

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, in) -> (N, out)."""
        given = (ops.cast(x, ms.float32), self.weight, self.deq_scale, self.quant_bias)
        y = self.matmul(*given) if self.is_per_token else self.matmul(*given, self.input_scale, self.input_offset)
        return ops.cast(y if self.bias is None else y + self.bias, self.dtype)

    def floats(self) -> dict[str, np.ndarray]:
        """The float32 weight (out, in) and bias (out) that the whole numbers stand for."""
        return {"weight": self.weight.asnumpy() * self._weight_scale, "bias": self._fp_bias}


class W8A8Matmul(Chosen):
    """Rows (N, in) times whole numbers (out, in): by the kernel where there is one, otherwise exactly in float32.

    The formula adds pieces of 1,024 inputs as int32. Scale and offset of the inputs are arguments, since one graph
    computes several layers (generation/network.py); without them each row has its own scale, max|x| / 127.
    """

    def __init__(self, columns: int):
        super().__init__(None if columns % 4 else _Kernel)
        self.none = Tensor(np.zeros(2, np.float32))
        self.borders = tuple((begin, min(begin + _EXACT, columns)) for begin in range(0, columns, _EXACT))
        self.round, self.largest = ops.Rint(), ops.ReduceMax(keep_dims=True)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(
        self,
        x: Tensor,
        weight: Tensor,
        deq_scale: Tensor,
        quant_bias: Tensor,
        input_scale: Tensor | None = None,
        input_offset: Tensor | None = None,
    ) -> Tensor:
        """X (N, in) float32, weight (out, in) int8, deq_scale (out) float32, quant_bias (out) int32 -> (N, out)."""
        if self.kernel_fits(x):
            given = self.none if input_scale is None else ops.concat((input_scale, input_offset))
            return self.kernel(x, weight, deq_scale, quant_bias, given)
        if input_scale is not None:
            whole = ops.minimum(ops.maximum(self.round(x / input_scale + input_offset), -128.0), 127.0)
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
    _sum_finely(model)
    forget_graphs(model)
    object.__setattr__(model, "_cached", None)
    for parameter in model.get_parameters():
        parameter.name = names[id(parameter)]


def _sum_finely(model: nn.Cell) -> None:
    """What W8A8 layers round to steps comes from sums that lose nothing: beside half a step the last bit decides."""
    if model.config.compute_dtype != "float32":
        return
    for _, cell in model.cells_and_names():
        if type(cell) is Linear and type(cell.matmul) is Matmul:
            before, cell.matmul = cell.matmul, Matmul(doubles=True)
            cell.matmul.kernel_is_on = before.kernel_is_on


def _kept(values: np.ndarray, name: str) -> Parameter:
    return Parameter(Tensor(np.ascontiguousarray(values)), name=name, requires_grad=False)
