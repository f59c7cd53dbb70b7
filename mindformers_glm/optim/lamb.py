"""Lamb: Adam's direction, for each parameter as long as the parameter itself (You et al. 2020, algorithm 2).

MindSpore's own `nn.Lamb` has no kernel on CPU and is deprecated; this one has its names, states and formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, ops

from mindformers_glm.optim.adam import CorrectedAdam
from mindformers_glm.registry import OPTIMIZERS


@OPTIMIZERS.register("lamb")
class Lamb(CorrectedAdam):
    """r = mhat / (sqrt(vhat) + eps) + weight_decay * p;  p -= lr * |p| / |r| * r, norms over the whole parameter.

    Where either norm is 0 the factor |p| / |r| is 1.
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
        settings = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, learning_rate=learning_rate, **settings)

    def scaled(self, grads: tuple[Tensor, ...], factor: Tensor) -> Tensor:
        """Updates in place from factor * gradients; returns the learning rate."""
        correction1, correction2 = self.corrections()
        for i in range(self.size):
            parameter, grad = self.parameters[i], grads[i].astype(ms.float32) * factor
            wide = parameter.astype(ms.float32)
            mean, square = self.moments(i, grad)
            direction = mean / correction1 / (ops.sqrt(square / correction2) + self.eps)
            direction = direction + self.decays[i] / self.ratios[i] * wide
            length, size = ops.sqrt(ops.square(direction).sum()), ops.sqrt(ops.square(wide).sum())
            trust = ops.select(length * size > 0, size / ops.maximum(length, Tensor(1e-30, ms.float32)), self.one)
            ops.assign(
                parameter, (wide - self.learning_rate * self.ratios[i] * trust * direction).astype(parameter.dtype)
            )
        return self.learning_rate
