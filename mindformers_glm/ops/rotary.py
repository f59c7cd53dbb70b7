"""Rotary position embedding of GLM: the first half of each head, neighbouring pairs.

Shapes: B batch, T tokens, N = B * T rows, H query heads, K kv heads, E head_dim.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

_matmul, _matmul_back = ops.MatMul(), ops.MatMul(transpose_b=True)


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


def head_scales(*, heads: int, kv_heads: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """What `rotate_heads` does to heads q | k | v besides turning: (factor, offset), each (1, H + 2 K, 1, 1).

    The cosine of a head is factor * cos + offset, its sine factor * sin: queries are scaled by 1 / sqrt(E) on the way,
    values are left as they are.
    """
    factor, offset = np.ones((2, 1, heads + 2 * kv_heads, 1, 1), np.float32)
    factor[:, :heads] = channels**-0.5
    factor[:, heads + kv_heads :] = 0
    offset[:, : heads + kv_heads] = 0
    return factor, offset


def rotate_heads(
    x: Tensor, cos: Tensor, sin: Tensor, turn: Tensor, *, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Heads q | k | v turned by the angles of their positions, x * cos + (x turn) * sin, and taken apart.

    x (B, H + 2 K, T, E); cos and sin (B or 1, H + 2 K, T, E), float32; turn (E, E) from `pair_turn`. Result in the type
    of x: q (B, K, G * T, E) with rows ordered (g, t), k and v (B, K, T, E). The product with the constant matrix is
    exact (one term in each sum) and several times faster on a CPU than taking pairs apart.
    """
    q, k, v = _rotate(ops.cast(x, ms.float32), cos, sin, turn, heads, kv_heads)
    return ops.cast(q, x.dtype), ops.cast(k, x.dtype), ops.cast(v, x.dtype)


class _Rotate(nn.Cell):
    """The formula with its gradient by hand: heads are joined, not padded and added, and turned back."""

    def construct(self, x, cos, sin, turn, heads, kv_heads):
        x = x * cos + _turned(_matmul, x, turn) * sin
        q = x[:, :heads].reshape(x.shape[0], kv_heads, -1, x.shape[3])
        return q, x[:, heads : heads + kv_heads], x[:, heads + kv_heads :]

    def bprop(self, x, cos, sin, turn, heads, kv_heads, out, dout):
        dq, dk, dv = dout
        dx = ops.concat((dq.reshape(dq.shape[0], heads, -1, dq.shape[3]), dk, dv), 1)
        dx = dx * cos + _turned(_matmul_back, dx * sin, turn)
        return dx, ops.zeros_like(cos), ops.zeros_like(sin), ops.zeros_like(turn), 0, 0


def _turned(product, x, turn):
    return product(x.reshape(-1, x.shape[3]), turn).reshape(x.shape[0], x.shape[1], -1, x.shape[3])


_rotate = _Rotate()
