"""YaRN: rotary frequencies for contexts longer than those of training. No MindSpore here.

Peng et al., YaRN: Efficient Context Window Extension of Large Language Models, 2023.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Yarn(NamedTuple):
    """By what `factor` a context of `original` positions is extended, and which frequencies stay as they are.

    Pairs that rotate more than `fast` times within the original context keep their frequency, those that rotate less
    than `slow` times are interpolated, and those between are mixed. `size` multiplies cosine and sine.
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    attention_factor: float | None = None

    @property
    def size(self) -> float:
        """The factor of cosine and sine."""
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor

    def stretched(self, frequencies: np.ndarray, *, base: float, rotated: int) -> np.ndarray:
        """The frequencies (rotated / 2,) for the longer context, float64."""
        low, high = (
            rotated * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in self[2:4]
        )
        low, high = max(math.floor(low), 0), min(math.ceil(high), rotated - 1)
        ramp = np.clip((np.arange(rotated // 2) - low) / (max(high, low + 0.001) - low), 0, 1)
        return frequencies / self.factor * ramp + frequencies * (1 - ramp)
