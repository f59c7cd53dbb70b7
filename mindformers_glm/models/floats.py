"""The float weights that the integers of a network stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_glm.models.quantized import quantized_layers
from mindformers_glm.models.w8a8 import w8a8_layers
from mindformers_glm.ops.quantized import SCALE, Quantized, dequantize


def is_quantized(model: nn.Cell) -> bool:
    """True where some of its weights are integers."""
    return bool(quantized_layers(model) or w8a8_layers(model))


def float_weights(model: nn.Cell) -> Mapping[str, np.ndarray]:
    """Our name -> float32 weight of every parameter, computed when it is asked for."""
    return _Floats(model)


class _Floats(Mapping):
    def __init__(self, model: nn.Cell) -> None:
        self._integers, self._whole = quantized_layers(model), w8a8_layers(model)
        self._others = {one.name: one for one in model.get_parameters()}
        inner = {one.name for cell in self._whole.values() for one in cell.get_parameters()}
        scales = {name + SCALE for name in self._integers}
        names = [name for name in self._others if name not in inner | scales]
        names += [f"{layer}.weight" for layer in self._whole]
        names += [f"{layer}.bias" for layer, cell in self._whole.items() if cell.has_bias]
        self._names = list(dict.fromkeys(names))

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._integers:
            cell = self._integers[name]
            found = Quantized(cell.weight.asnumpy(), cell.weight_scale.asnumpy())
            return dequantize(found, bits=cell.bits, columns=cell.in_channels)
        layer, _, leaf = name.rpartition(".")
        if layer in self._whole:
            return self._whole[layer].floats()[leaf]
        return self._others[name].astype(ms.float32).asnumpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
