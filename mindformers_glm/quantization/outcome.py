"""What quantising cost: bytes, and the error of each layer. No MindSpore here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mindformers_glm.models.rounding import Rounding

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


def report_of(layers: Mapping[str, Rounding], sizes: Mapping[str, int]) -> QuantizationReport:
    """The report on layers of integers, by the names of their weights; `sizes` are their bytes with their scales."""
    before = sum(layer.in_channels * layer.out_channels * _FLOAT32_BYTES for layer in layers.values())
    errors = [LayerError(name.removesuffix(".weight"), layer.bits, layer.error) for name, layer in layers.items()]
    return QuantizationReport(before, sum(sizes.values()), errors)
