"""Official int8 and int4 rows: chatglm2-6b-int4, quantize(4) and quantize(8)."""

from __future__ import annotations

import numpy as np

from mindformers_glm.ops.quantized import Quantized, official_integers, official_scale, packed
from mindformers_glm.quantization.interface import Inputs
from mindformers_glm.quantization.schemes.integers import Integers


class _Official(Integers):
    """Rounded in float16, as quantization.py of the published models does; the scale is max|row| / 127 or / 7."""

    def quantise(
        self, weight: np.ndarray, *, group_size: int, bias: np.ndarray | None = None, inputs: Inputs | None = None
    ) -> Quantized:
        """See Scheme."""
        halves = weight.astype(np.float16)
        return Quantized(
            packed(official_integers(halves, self.bits), self.bits), official_scale(halves, self.bits)[:, None]
        )


class OfficialInt8(_Official):
    """-127 to 127."""

    name, bits, exports = "official-int8", 8, ("ours", "official-int8")


class OfficialInt4(_Official):
    """-7 to 7."""

    name, bits, exports = "official-int4", 4, ("ours", "official-int4")
