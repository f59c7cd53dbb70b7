"""Clipping by the global norm of all gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm.ops.kernels.operators import fits, operator
from mindformers_glm.runtime import device_target

_NORM_EPSILON = 1e-6
_ROWS = 16


class SquaredNorm(nn.Cell):
    """Sum of the squares of all gradients, in float32: a scalar, not finite when any gradient is not.

    On the CPU a gradient, as a matrix of a few rows, is multiplied with its own transpose and the diagonal
    kept: this reads it once and adds in blocks, five times as fast as a plain sum of squares there and exacter. With
    the compiled library a kernel does that in one pass.
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.matmul = ops.MatMul(transpose_b=True) if device_target() == "CPU" else None
        self.diagonal = Tensor(np.eye(_ROWS, dtype=np.float32))
        self.squares = operator("GlmSquares", lambda x: (1,))

    def construct(self, grads: tuple[Tensor, ...]) -> Tensor:
        """Gradients of any shapes -> ()."""
        total, products = ops.zeros((), ms.float32), ops.zeros((_ROWS, _ROWS), ms.float32)
        for grad in grads:
            wide = grad.astype(ms.float32)
            if self.squares is not None and fits(wide):
                total = total + self.squares(wide).reshape(())
            elif self.matmul is not None and wide.size % _ROWS == 0:
                rows = wide.reshape(_ROWS, -1)
                products = products + self.matmul(rows, rows)
            else:
                total = total + ops.square(wide).sum()
        return total + (products * self.diagonal).sum()


def clip_coefficient(norm: Tensor, max_norm: float) -> Tensor:
    """Factor of the gradients that brings a global norm down to `max_norm`: max_norm / (norm + 1e-6), at most 1."""
    return ops.minimum(max_norm / (norm + _NORM_EPSILON), Tensor(1.0, ms.float32))


def scale_gradients(grads: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    """Every gradient in float32, times `factor`."""
    scaled: tuple[Tensor, ...] = ()
    for grad in grads:
        scaled = (*scaled, grad.astype(ms.float32) * factor)
    return scaled
