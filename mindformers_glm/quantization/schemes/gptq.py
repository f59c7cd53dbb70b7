"""Symmetric GPTQ of 4 bits: scale 2 max / 15, -8 to 7."""

from __future__ import annotations

import numpy as np

from mindformers_glm.ops.quantized import Quantized, gptq_integers, gptq_scale, packed
from mindformers_glm.quantization.interface import Inputs
from mindformers_glm.quantization.schemes.integers import Integers


class GPTQ(Integers):
    """GPTQ's grid; rounded to nearest, or with errors fed forward where inputs were seen (quantization/rounding.py)."""

    name, bits, group_sizes, exports = "gptq", 4, (128, 32, 64), ("ours", "gptq")

    def quantise(
        self, weight: np.ndarray, *, group_size: int, bias: np.ndarray | None = None, inputs: Inputs | None = None
    ) -> Quantized:
        """See Scheme."""
        group = group_size or weight.shape[1]
        scale = gptq_scale(np.asarray(weight, np.float32), group)
        return Quantized(packed(gptq_integers(weight, scale, group), 4), scale)
