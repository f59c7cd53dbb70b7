"""W8A8: weights and inputs of 8 bits, whole numbers throughout, one scale and offset for a layer's inputs."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.w8a8 import Layer, dequantized, output, quantized
from mindformers_glm.quantization.interface import Inputs, Scheme


class W8A8(Scheme):
    """ModelSlim's layer (ops/w8a8.py)."""

    name, bits = "w8a8", 8
    stores = {
        ".weight": "int8 (N, K)",
        ".deq_scale": "float32 (N)",
        ".quant_bias": "int32 (N)",
        ".input_scale, .input_offset": "one number each",
    }
    computes = "int8 times int8, int32 sums of a whole row, one scale at the end"
    exports: ClassVar[tuple[str, ...]] = ("ascend-v1", "the eight files of export_quant_weight.py")
    needs: ClassVar[tuple[str, ...]] = ("rows",)
    is_sparse = False

    def network_keys(self, group_size: int | None = None) -> dict[str, Any]:
        """See Scheme: layers are put in place when weights are loaded."""
        group = self.group(group_size)
        return {"quantization_scheme": self.name, "quantization_bit": 0, "quantization_group_size": group}

    def quantise(
        self, weight: np.ndarray, *, group_size: int = 0, bias: np.ndarray | None = None, inputs: Inputs | None = None
    ) -> Layer:
        """See Scheme."""
        if inputs is None:
            fix = "Its inputs must have been seen: mindformers-glm quantize --scheme w8a8 --data_path ROWS writes it."
            raise ConfigError("quantization.scheme", self.name, fix)
        return quantized(weight, bias, inputs.low, inputs.high, sparse=self.is_sparse)

    def dequantise(self, layer: Layer, columns: int) -> np.ndarray:
        """See Scheme."""
        return dequantized(layer)

    def matmul(self, x: np.ndarray, layer: Layer, bias: np.ndarray | None = None) -> np.ndarray:
        """See Scheme; the layer holds the bias already."""
        return output(x, layer)
