"""W8A8 with a scale for each token: nothing need be calibrated."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mindformers_glm.ops.w8a8 import Layer, per_token
from mindformers_glm.quantization.interface import Inputs
from mindformers_glm.quantization.schemes.w8a8 import W8A8


class W8A8Token(W8A8):
    """Each row of inputs is rounded with a scale of its own; ours, in no file of others."""

    name = "w8a8-token"
    computes = "int8 times int8, int32 sums of a whole row, the scale of the row of inputs at the end"
    exports: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()

    def quantise(
        self, weight: np.ndarray, *, group_size: int = 0, bias: np.ndarray | None = None, inputs: Inputs | None = None
    ) -> Layer:
        """See Scheme."""
        return per_token(weight, bias)
