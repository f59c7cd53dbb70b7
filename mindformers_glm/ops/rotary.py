"""Rotary position embedding of GLM: the first half of each head (or all of it), neighbouring pairs.

Shapes: B batch, T tokens, N = B * T tokens, H query heads, K kv heads, E head_dim.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm.ops.rotary_table import rotary_rows, rotary_table  # noqa: F401 - part of this formula

_matmul, _matmul_back = ops.MatMul(), ops.MatMul(transpose_b=True)


def pair_turn(channels: int, rotated: int | None = None) -> np.ndarray:
    """The matrix P with (x P)[2i] = -x[2i+1], (x P)[2i+1] = x[2i] over the rotated channels, 0 elsewhere: (E, E)."""
    turn = np.zeros((channels, channels), np.float32)
    for even in range(0, channels // 2 if rotated is None else rotated, 2):
        turn[even + 1, even], turn[even, even + 1] = -1, 1
    return turn


def head_scales(*, heads: int, kv_heads: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """What `RotateHeads` does to heads q | k | v besides rotation: (factor, offset), each (1, H + 2 K, 1, 1).

    The cosine of a head is factor * cos + offset, its sine factor * sin: so queries are also scaled by 1 / sqrt(E), and
    values stay as they are.
    """
    factor, offset = np.ones((2, 1, heads + 2 * kv_heads, 1, 1), np.float32)
    factor[:, :heads] = channels**-0.5
    factor[:, heads + kv_heads :] = 0
    offset[:, : heads + kv_heads] = 0
    return factor, offset


class RotateHeads(nn.Cell):
    """Heads q | k | v rotated by the angles of their positions, x * cos + (x P) * sin with P of `pair_turn`, and split.

    The matmul with the constant matrix P is exact (each sum has one term), and on a CPU several times faster than
    splitting pairs.
    """

    def __init__(self, *, heads: int, kv_heads: int, channels: int, rotated: int | None = None):
        super().__init__()
        self.heads, self.kv_heads, self.channels = heads, kv_heads, channels
        self.turn = Tensor(pair_turn(channels, rotated))

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heads (B, H + 2 K, T, E) -> q (B, K, G * T, E) with rows ordered (g, t), k and v (B, K, T, E), all float32.

        cos and sin (B or 1, H + 2 K, T, E); they include `head_scales`.
        """
        h, k = self.heads, self.kv_heads
        x = x * cos + self.turned(_matmul, x) * sin
        return x[:, :h].reshape(x.shape[0], k, -1, self.channels), x[:, h : h + k], x[:, h + k :]

    def turned(self, matmul: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
        """The matmul of every head with the constant matrix."""
        rows = matmul(x.reshape(-1, self.channels), self.turn)
        return rows.reshape(x.shape[0], x.shape[1], -1, self.channels)


class RotateHeadsWithGradient(RotateHeads):
    """RotateHeads whose gradient concatenates the heads instead of padding and adding them, and rotates them back."""

    def bprop(self, x: Tensor, cos: Tensor, sin: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient for x; positions have none."""
        dq, dk, dv = dout
        dx = ops.concat((dq.reshape(dq.shape[0], self.heads, -1, self.channels), dk, dv), 1)
        dx = dx * cos + self.turned(_matmul_back, dx * sin)
        return dx, ops.zeros_like(cos), ops.zeros_like(sin)
