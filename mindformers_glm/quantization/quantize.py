"""Quantising the linear layers of a network, and what it cost."""

from __future__ import annotations

from typing import NamedTuple

import mindspore as ms
from mindspore import nn

from mindformers_glm.adapters.lora import LoraLinear
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.quantized import make_quantized, quantized_layers

_FLOAT32_BYTES = 4


class LayerError(NamedTuple):
    """One layer: its bits, and |quantised W - W| / |W| in the Frobenius norm; None where W was never here."""

    path: str
    bits: int
    error: float | None


class QuantizationReport(NamedTuple):
    """Bytes of the linear layers in float32 and as they are, and the error of each."""

    bytes_before: int
    bytes_after: int
    layers: list[LayerError]

    def lines(self) -> list[str]:
        """For people: what was saved, and the layers with the largest errors first."""
        worst = sorted(self.layers, key=lambda layer: -(layer.error or 0))
        share = self.bytes_after / self.bytes_before
        head = f"linear layers: {self.bytes_before:,} bytes in float32, {self.bytes_after:,} now ({share:.0%})"
        told = [f"{'?' if layer.error is None else format(layer.error, '.3%'):>8}" for layer in worst]
        return [head, *(f"{error}  {layer.bits} bits  {layer.path}" for error, layer in zip(told, worst, strict=True))]


def quantize_model(model: nn.Cell, *, bits: int = 8, group_size: int = 32) -> QuantizationReport:
    """Replaces the linear layers of a network by integer ones, in place, one after the other.

    The output layer keeps 8 bits; embedding and norms stay as they are. `model.config` says afterwards what was done.

    Raises:
        ConfigError: other bits or group sizes, layers that do not divide, a network that is quantised already or one
            with LoRA. Nothing has been changed then.
    """
    _check_is_plain(model, bits)
    changes = {"quantization_bit": bits, "quantization_group_size": group_size}
    model.config = type(model.config)(**{**model.config.model_dump(), **changes})
    replaced = make_quantized(model, bits=bits, group_size=group_size)
    while replaced:
        _, (old, new) = replaced.popitem()  # so that the old layer's memory is free before the next is looked at
        new.take(old.weight.astype(ms.float32).asnumpy())
    return report(model)


def _check_is_plain(model: nn.Cell, bits: int) -> None:
    if quantized_layers(model):
        raise ConfigError("quantization_bit", bits, "This network is quantised already: load the float weights anew.")
    if any(isinstance(cell, LoraLinear) for _, cell in model.cells_and_names()):
        fix = "This network has LoRA adapters: merge them into the weights first (tools/merge_lora.py)."
        raise ConfigError("quantization_bit", bits, fix)


def report(model: nn.Cell) -> QuantizationReport:
    """What a quantised network's layers take and lost."""
    layers = quantized_layers(model)
    before = sum(cell.in_channels * cell.out_channels * _FLOAT32_BYTES for cell in layers.values())
    after = sum(cell.weight.nbytes + cell.weight_scale.nbytes for cell in layers.values())
    errors = [LayerError(name.removesuffix(".weight"), cell.bits, cell.error) for name, cell in layers.items()]
    return QuantizationReport(before, after, errors)
