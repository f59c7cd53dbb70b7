"""Adam with decoupled weight decay: with MindFormers' numbers (no bias correction) and as published.

Both keep float32 moments named `adam_m.<parameter>` and `adam_v.<parameter>` whatever the parameter's type. A float32
parameter is updated in place, by one kernel of the compiled library or by two of MindSpore's; another type is widened
to float32, updated and rounded back.

`state_dtype: bfloat16` keeps the moments in half the memory. They are rounded up as often as they are near the upper
number, by noise that follows from the numbers themselves: rounded to the nearest, a second moment that moves by a
thousandth would never move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.kernels.operators import writing_operator
from mindformers_glm.optim.clip import scale_gradients
from mindformers_glm.optim.groups import flatten
from mindformers_glm.registry import OPTIMIZERS


class DecoupledAdam(nn.Cell):
    """m, v from the gradients; p -= rate * (m / (sqrt(v) + eps)) + learning_rate * decay * p.

    Called with one gradient for each of `parameters`. `learning_rate` is a Parameter that the trainer assigns.
    """

    states = ("adam_m", "adam_v")  # names of the moments, before the parameter's

    def __init__(
        self,
        params: Sequence[Any],
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        state_dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__(auto_prefix=False)
        self.beta1, self.beta2 = _inside("beta1", beta1), _inside("beta2", beta2)
        self.eps = _above_zero("eps", eps)
        self.eps_tensor = Tensor(self.eps, ms.float32)
        rows = flatten(params, _not_negative("weight_decay", weight_decay))
        self.parameters = ParameterTuple([row.parameter for row in rows])
        self.decays = tuple(row.weight_decay * row.lr_ratio for row in rows)  # times the run's learning rate
        self.ratios = tuple(row.lr_ratio for row in rows)
        self.is_float32 = tuple(row.parameter.dtype == ms.float32 for row in rows)
        self.kernel = writing_operator("GlmAdam" if state_dtype == "float32" else "GlmAdamHalfStates")
        kind = self._state_type(state_dtype)
        self.moments1, self.moments2 = (_zeros_like(self.parameters, prefix, kind) for prefix in self.states)
        self.learning_rate = Parameter(
            Tensor(float(learning_rate), ms.float32), name="learning_rate", requires_grad=False
        )
        self.size = len(rows)
        self.descend, self.adam = ops.ApplyGradientDescent(), ops.Adam()
        self.zero, self.one = Tensor(0.0, ms.float32), Tensor(1.0, ms.float32)

    def construct(self, grads: tuple[Tensor, ...]) -> Tensor:
        """Updates in place; returns the learning rate."""
        return self.scaled(grads, self.one)

    def update(self, grads: tuple[Tensor, ...], rate: Tensor, eps: Tensor, factor: Tensor) -> Tensor:
        """Updates every parameter and its moments from factor * gradients; `rate` and `eps` are those of this step.

        Returns the learning rate.
        """
        if self.kernel is None:
            grads = scale_gradients(grads, factor)
            self._update_by_formulas(grads, rate, eps)
            return self.learning_rate
        for i in range(self.size):
            if self.is_float32[i]:
                decay = self.learning_rate * self.decays[i]
                numbers = ops.stack(
                    (rate * self.ratios[i], decay, self.beta1 * self.one, self.beta2 * self.one, eps, factor)
                )
                grad = grads[i].astype(ms.float32)
                self.kernel(self.parameters[i], self.moments1[i], self.moments2[i], grad, numbers)
            else:
                self._update_widened(i, grads[i].astype(ms.float32) * factor, rate * self.ratios[i], eps)
        return self.learning_rate

    def _state_type(self, name: str) -> ms.Type:
        """The type of the moments.

        Raises:
            ConfigError: another name, or nothing here can update moments in bfloat16.
        """
        if name not in ("float32", "bfloat16"):
            raise ConfigError("optimizer.state_dtype", name, "Use float32 or bfloat16.")
        if name == "bfloat16" and (self.kernel is None or not all(self.is_float32)):
            fix = "Moments in bfloat16 need the compiled kernels of a CPU and float32 parameters: use float32."
            raise ConfigError("optimizer.state_dtype", name, fix)
        return getattr(ms, name)

    def _update_by_formulas(self, grads: tuple[Tensor, ...], rate: Tensor, eps: Tensor) -> None:
        for i in range(self.size):
            if self.is_float32[i]:
                if self.decays[i] > 0:
                    self.descend(self.parameters[i], self.learning_rate * self.decays[i], self.parameters[i])
                self.adam(
                    self.parameters[i], self.moments1[i], self.moments2[i], self.zero, self.zero,
                    rate * self.ratios[i], self.beta1, self.beta2, eps, grads[i].astype(ms.float32),
                )  # fmt: skip
            else:
                self._update_widened(i, grads[i].astype(ms.float32), rate * self.ratios[i], eps)

    def moments(self, i: int, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The moments of parameter i after a float32 gradient; they are kept."""
        mean = self.moments1[i] * self.beta1 + grad * (1 - self.beta1)
        square = self.moments2[i] * self.beta2 + grad * grad * (1 - self.beta2)
        ops.assign(self.moments1[i], mean)
        ops.assign(self.moments2[i], square)
        return mean, square

    def _update_widened(self, i: int, grad: Tensor, rate: Tensor, eps: Tensor) -> None:
        parameter = self.parameters[i]
        wide = parameter.astype(ms.float32)
        mean, square = self.moments(i, grad)
        wide = wide - rate * (mean / (ops.sqrt(square) + eps)) - self.learning_rate * self.decays[i] * wide
        ops.assign(parameter, wide.astype(parameter.dtype))


class CorrectedAdam(DecoupledAdam):
    """Adam whose moments are corrected for their zero start; `global_step` counts the updates made."""

    def __init__(self, params: Sequence[Any], **settings: Any) -> None:
        super().__init__(params, **settings)
        self.log_beta1, self.log_beta2 = math.log(self.beta1), math.log(self.beta2)
        self.global_step = Parameter(Tensor([0], ms.int32), name="global_step", requires_grad=False)

    def corrections(self) -> tuple[Tensor, Tensor]:
        """Counts one update; 1 - beta1^t and 1 - beta2^t without losing digits."""
        step = self.global_step + 1
        ops.assign(self.global_step, step)
        count = step.astype(ms.float32).reshape(())
        return -ops.expm1(count * self.log_beta1), -ops.expm1(count * self.log_beta2)


@OPTIMIZERS.register("fp32_adamw", "AdamWeightDecay", "adamw", "FusedAdamWeightDecay", "fused_adamw")
class FP32StateAdamWeightDecay(DecoupledAdam):
    """MindFormers' Adam: p -= lr * (m / (sqrt(v) + eps) + weight_decay * p), moments without bias correction.

    `AdamWeightDecay` (alias `adamw`) of MindSpore has the same formula. For the published one use `AdamW`.
    """

    def scaled(self, grads: tuple[Tensor, ...], factor: Tensor) -> Tensor:
        """Updates in place from factor * gradients; returns the learning rate."""
        return self.update(grads, self.learning_rate.value(), self.eps_tensor, factor)


@OPTIMIZERS.register("adamw_bias_correction")
class AdamW(CorrectedAdam):
    """The published AdamW: moments corrected for their zero start (Loshchilov and Hutter 2019, algorithm 2).

    p -= lr * (mhat / (sqrt(vhat) + eps) + weight_decay * p).
    """

    def __init__(
        self,
        params: Sequence[Any],
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        state_dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        settings = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, learning_rate=learning_rate, state_dtype=state_dtype, **settings)

    def scaled(self, grads: tuple[Tensor, ...], factor: Tensor) -> Tensor:
        """Updates in place from factor * gradients; returns the learning rate."""
        correction1, squared = self.corrections()
        correction2 = ops.sqrt(squared)
        # m / c1 / (sqrt(v) / c2 + eps) = c2 / c1 * m / (sqrt(v) + eps * c2)
        return self.update(grads, self.learning_rate * correction2 / correction1, self.eps * correction2, factor)


def _zeros_like(parameters: Sequence[Parameter], prefix: str, kind: ms.Type) -> ParameterTuple:
    return ParameterTuple(
        [
            Parameter(Tensor(np.zeros(p.shape, np.float32), kind), name=f"{prefix}.{p.name}", requires_grad=False)
            for p in parameters
        ]
    )


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"optimizer.{name}", value, "Expected a number.") from None


def _inside(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 < number < 1:
        raise ConfigError(f"optimizer.{name}", value, "Use a number between 0 and 1.")
    return number


def _above_zero(name: str, value: Any) -> float:
    number = _number(name, value)
    if not number > 0:
        raise ConfigError(f"optimizer.{name}", value, "Use a number above 0.")
    return number


def _not_negative(name: str, value: Any) -> float:
    number = _number(name, value)
    if not number >= 0:
        raise ConfigError(f"optimizer.{name}", value, "Use 0 or more.")
    return number
