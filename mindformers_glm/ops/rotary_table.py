"""The table of the rotary position embedding, in NumPy alone; rotary.py rotates heads by it."""

from __future__ import annotations

import numpy as np

from mindformers_glm.ops.yarn import Yarn


def rotary_table(
    *,
    length: int,
    channels: int,
    ratio: float = 1.0,
    method: str = "base",
    rotated: int | None = None,
    yarn: Yarn | None = None,
) -> np.ndarray:
    """Cosine and sine of every position for every channel of a head: (length, 2, channels) float32.

    Only the first `rotated` channels are rotated (None: the first half): the cosine of the others is 1, their sine 0.
    Angles are computed in float64: in float16 they are wrong from position 2048 on, in float32 by 6e-3 at a million.
    `yarn` stretches the frequencies and scales cosine and sine. `method` "base" multiplies the base 10000 by `ratio`
    (ChatGLM3-32k, GLM-4), "linear" divides positions by it (ChatGLM2-32k).

    Su et al., RoFormer, 2021; Chen et al., Extending Context Window via Position Interpolation, 2023.
    """
    return rotary_rows(np.arange(length), channels, ratio=ratio, method=method, rotated=rotated, yarn=yarn)


def rotary_rows(
    positions: np.ndarray,
    channels: int,
    *,
    ratio: float = 1.0,
    method: str = "base",
    rotated: int | None = None,
    yarn: Yarn | None = None,
) -> np.ndarray:
    """The rows of `rotary_table` at these positions: (len(positions), 2, channels) float32."""
    rotated = channels // 2 if rotated is None else rotated
    base, positions = 10000.0, np.asarray(positions, np.float64)
    if method == "base":
        base *= ratio
    else:
        positions /= ratio
    frequencies, size = base ** (-np.arange(0, rotated, 2) / rotated), 1.0
    if yarn is not None:
        frequencies, size = yarn.stretched(frequencies, base=base, rotated=rotated), yarn.size
    angle = np.outer(positions, frequencies)
    table = np.zeros((len(positions), 2, channels), np.float32)
    table[:, 0] = 1
    table[:, 0, :rotated] = np.repeat(np.cos(angle) * size, 2, axis=1)
    table[:, 1, :rotated] = np.repeat(np.sin(angle) * size, 2, axis=1)
    return table
