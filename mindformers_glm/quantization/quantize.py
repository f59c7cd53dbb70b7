"""Quantising the linear layers of a network, and what it cost."""

from __future__ import annotations

from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_glm.models.glm.quantized import make_quantized
from mindformers_glm.ops.quantized import dequantize


class LayerError(NamedTuple):
    """One layer: its bits, and |W - quantised W| / |W| in the Frobenius norm."""

    path: str
    bits: int
    error: float


class QuantizationReport(NamedTuple):
    """Bytes of the linear layers before and after, and the error of each."""

    bytes_before: int
    bytes_after: int
    layers: list[LayerError]

    def lines(self) -> list[str]:
        """For people: what was saved, and the layers with the largest errors first."""
        worst = sorted(self.layers, key=lambda layer: -layer.error)
        share = self.bytes_after / self.bytes_before
        head = f"linear layers: {self.bytes_before:,} -> {self.bytes_after:,} bytes ({share:.0%})"
        return [head, *(f"{layer.error:8.3%}  {layer.bits} bits  {layer.path}" for layer in worst)]


def quantize_model(model: nn.Cell, *, bits: int = 8, group_size: int = 32) -> QuantizationReport:
    """Replaces the linear layers of a network by integer ones, in place, one after the other.

    The output layer keeps 8 bits; embedding and norms stay as they are. `model.config` says afterwards what was done.

    Raises:
        ConfigError: other bits or group sizes, layers that do not divide, or a network with LoRA.
    """
    config = model.config.model_copy()
    config.quantization_group_size, config.quantization_bit = group_size, bits  # checked on assignment
    model.config = config
    before = after = 0
    layers = []
    for path, (old, new) in make_quantized(model, bits=bits, group_size=group_size).items():
        before += old.weight.nbytes
        whole = old.weight.astype(ms.float32).asnumpy()
        found = new.take(whole)
        old.weight.set_data(ms.Tensor(np.zeros(1, np.float32)))  # its memory is free for the next layer
        after += found.weight.nbytes + found.scale.nbytes
        wide = dequantize(found, bits=new.bits, columns=new.in_channels)
        layers.append(
            LayerError(path, new.bits, float(np.linalg.norm(wide - whole) / max(np.linalg.norm(whole), 1e-30)))
        )
    return QuantizationReport(before, after, layers)
