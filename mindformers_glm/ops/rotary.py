"""Rotary position embedding of GLM: the first half of each head, neighbouring pairs."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

_matmul = ops.MatMul()


def rotary_table(*, length: int, channels: int, ratio: float = 1.0, method: str = "base") -> np.ndarray:
    """Cosine and sine of every position for every channel of a head: (length, 2, channels) float32.

    The second half of a head is not rotated: its cosine is 1 and its sine 0. Angles are computed in float64: in
    float16 they are wrong from position 2048 on. `method` "base" multiplies the base 10000 by `ratio`
    (ChatGLM3-32k, GLM-4), "linear" divides positions by it (ChatGLM2-32k).

    Su et al., RoFormer, 2021; Chen et al., Extending Context Window via Position Interpolation, 2023.
    """
    rotated = channels // 2
    base, positions = 10000.0, np.arange(length, dtype=np.float64)
    if method == "base":
        base *= ratio
    else:
        positions /= ratio
    angle = np.outer(positions, base ** (-np.arange(0, rotated, 2) / rotated))
    table = np.zeros((length, 2, channels), np.float32)
    table[:, 0] = 1
    table[:, 0, :rotated] = np.repeat(np.cos(angle), 2, axis=1)
    table[:, 1, :rotated] = np.repeat(np.sin(angle), 2, axis=1)
    return table


def pair_turn(channels: int) -> np.ndarray:
    """The matrix P with (x P)[2i] = -x[2i+1], (x P)[2i+1] = x[2i] over the rotated half, 0 elsewhere: (E, E)."""
    turn = np.zeros((channels, channels), np.float32)
    for even in range(0, channels // 2, 2):
        turn[even + 1, even], turn[even, even + 1] = -1, 1
    return turn


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, turn: Tensor) -> Tensor:
    """The heads x turned by the angle of its position, in float32. x (N, h, E), cos and sin (N, 1, E), turn (E, E).

    A product with the constant matrix `turn` is exact (one term for each sum) and, on a CPU, several times faster
    than taking pairs apart and joining them.
    """
    x = ops.cast(x, ms.float32)
    turned = _matmul(x.reshape(-1, x.shape[-1]), turn).reshape(-1, x.shape[-2], x.shape[-1])
    return x * cos + turned * sin
