"""Optimizers and the training step: updates, decay, loss scale, overflow."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers_glm.conformance.check import Answer, check
from mindformers_glm.conformance.device import tensor
from mindformers_glm.conformance.inputs import numbers
from mindformers_glm.data.batch import Batch
from mindformers_glm.optim import AdamW, build_loss_scale
from mindformers_glm.optim.adam import FP32StateAdamWeightDecay
from mindformers_glm.optim.groups import decay_groups
from mindformers_glm.registry import OPTIMIZERS
from mindformers_glm.train.step import TrainStep

_RATE, _STEPS, _DECAY, _EPS = 0.05, 3, 0.1, 1e-6


class _Apply(nn.Cell):
    """An optimizer called with gradients that are given."""

    def __init__(self, optimizer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, *grads: Tensor) -> Tensor:
        return self.optimizer(grads)


def _parameters() -> list[Parameter]:
    shapes = {"dense.weight": (3, 5), "layernorm.weight": (5,)}
    return [Parameter(tensor(numbers(name, *shape)), name=name) for name, shape in shapes.items()]


def _adam(kind: type, *, corrected: bool) -> Answer:
    parameters = _parameters()
    groups = [
        {"params": parameters[:1], "weight_decay": _DECAY},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    apply = _Apply(kind(groups, learning_rate=_RATE, beta1=0.9, beta2=0.95, eps=_EPS))
    wanted = [numbers(p.name, *p.shape) for p in parameters]
    means, squares = [np.zeros(p.shape) for p in parameters], [np.zeros(p.shape) for p in parameters]
    for step in range(1, _STEPS + 1):
        grads = [numbers(f"{p.name} gradient {step}", *p.shape) for p in parameters]
        apply(*map(tensor, grads))
        for i, grad in enumerate(grads):
            means[i] = 0.9 * means[i] + 0.1 * grad
            squares[i] = 0.95 * squares[i] + 0.05 * grad**2
            mean, square = means[i], squares[i]
            if corrected:
                mean, square = mean / (1 - 0.9**step), square / (1 - 0.95**step)
            wanted[i] = wanted[i] - _RATE * (mean / (np.sqrt(square) + _EPS) + (_DECAY, 0.0)[i] * wanted[i])
    names = [p.name for p in parameters]
    found = [p.asnumpy().astype(np.float64) for p in parameters]
    return Answer(dict(zip(names, found, strict=True)), dict(zip(names, wanted, strict=True)))


@check("optimizer.adamw", place="optim/adam.py: AdamW")
def _adamw(kind: str) -> Answer:
    return _adam(AdamW, corrected=True)


@check("optimizer.fp32_adamw", place="optim/adam.py: FP32StateAdamWeightDecay")
def _fp32_adamw(kind: str) -> Answer:
    return _adam(FP32StateAdamWeightDecay, corrected=False)


@check("optimizer.groups", place="optim/groups.py: decay_groups")
def _groups(kind: str) -> Answer:
    shapes = {"dense.weight": (2, 2), "layernorm.weight": (2,), "dense.bias": (2,)}
    parameters = [Parameter(Tensor(np.zeros(shape, np.float32)), name=name) for name, shape in shapes.items()]
    found = {
        p.name: np.array(group["weight_decay"]) for group in decay_groups(parameters, 0.1) for p in group["params"]
    }
    return Answer(
        found, {"dense.weight": np.array(0.1), "layernorm.weight": np.array(0.0), "dense.bias": np.array(0.0)}
    )


class _Line(nn.Cell):
    """The loss w . mean(ids) / labels: its gradient is known, and infinite where the label is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = Parameter(tensor(numbers("line", 4)), name="w")

    def construct(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        size = input_ids.astype(ms.float32).mean() / labels.astype(ms.float32).mean()
        return (self.w * size).sum()


@check("step.overflow", place="train/step.py: TrainStep (loss scale, overflow, clipping)")
def _overflow(kind: str) -> Answer:
    """A good step, one that overflows and must change nothing but the scale, and a good one."""
    line = _Line()
    scale = build_loss_scale({"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 1024, "scale_window": 100})
    optimizer = OPTIMIZERS.get("sgd")(line.trainable_params())
    step = TrainStep(line, optimizer, loss_scale=scale, max_grad_norm=0.5)
    found, scales = {}, []
    for name, label in (("good", 1), ("overflow", 0), ("good again", 1)):
        batch = Batch(np.full((1, 2), 3, np.int32), np.full((1, 2), label, np.int32), np.array([1]))
        step([batch], 0.1)
        scales.append(scale.value)
        found[name] = line.w.asnumpy().astype(np.float64)
    begin, gradient = numbers("line", 4), np.full(4, 3.0)
    change = 0.1 * gradient * min(1.0, 0.5 / (np.sqrt(np.square(gradient).sum()) + 1e-6))
    wanted = {"good": begin - change, "overflow": begin - change, "good again": begin - 2 * change}
    return Answer({**found, "scale": np.array(scales, float)}, {**wanted, "scale": np.array([1024.0, 512.0, 512.0])})
