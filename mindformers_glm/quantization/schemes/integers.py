"""What schemes with integer weights and float inputs have in common: the layer of ops/quantized.py."""

from __future__ import annotations

import numpy as np

from mindformers_glm.ops.quantized import Quantized, dequantize, quantize
from mindformers_glm.quantization.interface import Inputs, Scheme


class Integers(Scheme):
    """Whole numbers times a float16 scale for each group of columns, or for each row."""

    stores = {
        ".weight": "int8 (N, K), or uint8 (N, K / 2) with two columns in a byte",
        ".weight_scale": "float16 (N, K / g)",
    }
    computes = "x rounded to int8 in spans of 32 on a CPU with kernels, whole numbers, float32 sums over spans"

    def quantise(
        self, weight: np.ndarray, *, group_size: int, bias: np.ndarray | None = None, inputs: Inputs | None = None
    ) -> Quantized:
        """See Scheme."""
        return quantize(weight, bits=self.bits, group_size=group_size or weight.shape[1])

    def dequantise(self, layer: Quantized, columns: int) -> np.ndarray:
        """See Scheme."""
        return dequantize(layer, bits=self.bits, columns=columns)
