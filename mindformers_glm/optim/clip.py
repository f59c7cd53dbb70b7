"""Clipping by the global norm of all gradients."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_glm.runtime import device_target

_NORM_EPSILON = 1e-6


class SquaredNorm(nn.Cell):
    """Sum of the squares of all gradients, in float32: a scalar, not finite when any gradient is not.

    On the processor each gradient is multiplied with itself as a vector, which reads it once and adds in blocks;
    a plain sum of squares there takes nine times as long.
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.dot = ops.MatMul(transpose_b=True) if device_target() == "CPU" else None

    def construct(self, grads: tuple[Tensor, ...]) -> Tensor:
        """Gradients of any shapes -> ()."""
        total = ops.zeros((1, 1), ms.float32)
        for grad in grads:
            flat = grad.astype(ms.float32).reshape(1, -1)
            total = total + (self.dot(flat, flat) if self.dot is not None else ops.square(flat).sum().reshape(1, 1))
        return total.reshape(())


def clip_coefficient(norm: Tensor, max_norm: float) -> Tensor:
    """Factor of the gradients that brings a global norm down to `max_norm`: max_norm / (norm + 1e-6), at most 1."""
    return ops.minimum(max_norm / (norm + _NORM_EPSILON), Tensor(1.0, ms.float32))


def scale_gradients(grads: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    """Every gradient in float32, times `factor`."""
    scaled = ()
    for grad in grads:
        scaled = (*scaled, grad.astype(ms.float32) * factor)
    return scaled
