"""Lamb: Adam's direction, for each parameter as long as the parameter itself (You et al. 2020, algorithm 2).

MindSpore's own `nn.Lamb` has no kernel on CPU and is deprecated; this one has its names, states and formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, ops

from mindformers_glm.optim.adam import DecoupledAdam
from mindformers_glm.registry import OPTIMIZERS


@OPTIMIZERS.register("lamb")
class Lamb(DecoupledAdam):
    """r = mhat / (sqrt(vhat) + eps) + weight_decay * p;  p -= lr * |p| / |r| * r, norms over the whole parameter.

    Where either norm is 0 the factor |p| / |r| is 1. `global_step` counts the updates made.
    """

    states = ("lamb_m", "lamb_v")
    needs_whole_parameters = True

    def __init__(
        self,
        params: Sequence[Any],
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, learning_rate, beta1, beta2, eps, weight_decay)
        self.log_beta1, self.log_beta2 = math.log(self.beta1), math.log(self.beta2)
        self.global_step = Parameter(Tensor([0], ms.int32), name="global_step", requires_grad=False)

    def scaled(self, grads: tuple[Tensor, ...], factor: Tensor) -> Tensor:
        """Updates in place from factor * gradients; returns the learning rate."""
        step = self.global_step + 1
        ops.assign(self.global_step, step)
        count = step.astype(ms.float32).reshape(())
        correction1 = -ops.expm1(count * self.log_beta1)
        correction2 = -ops.expm1(count * self.log_beta2)
        for i in range(self.size):
            parameter, grad = self.parameters[i], grads[i].astype(ms.float32) * factor
            wide = parameter.astype(ms.float32)
            mean = self.moments1[i] * self.beta1 + grad * (1 - self.beta1)
            square = self.moments2[i] * self.beta2 + grad * grad * (1 - self.beta2)
            ops.assign(self.moments1[i], mean)
            ops.assign(self.moments2[i], square)
            direction = mean / correction1 / (ops.sqrt(square / correction2) + self.eps)
            direction = direction + self.decays[i] / self.ratios[i] * wide
            length, size = ops.sqrt(ops.square(direction).sum()), ops.sqrt(ops.square(wide).sum())
            trust = ops.select(length * size > 0, size / ops.maximum(length, Tensor(1e-30, ms.float32)), self.one)
            ops.assign(
                parameter, (wide - self.learning_rate * self.ratios[i] * trust * direction).astype(parameter.dtype)
            )
        return self.learning_rate
