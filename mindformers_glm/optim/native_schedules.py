"""MindSpore's own learning-rate schedules under their names, as plain callables of the step.

The formulas are those of `mindspore.nn.learning_rate_schedule`; tests compare with its Cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mindformers_glm.errors import ConfigError
from mindformers_glm.optim.schedules import as_numbers
from mindformers_glm.registry import LR_SCHEDULES


@dataclass(kw_only=True)
class _Decay:
    """What the exponential and inverse decays share."""

    learning_rate: float
    decay_rate: float
    decay_steps: int
    is_stair: bool = False
    place: str = "lr_schedule"  # where the YAML has it, for messages

    def __post_init__(self) -> None:
        as_numbers(self, at_least_one="decay_steps")

    def periods(self, step: int) -> float:
        """Completed decay periods; whole ones with `is_stair`."""
        return step // self.decay_steps if self.is_stair else step / self.decay_steps


@LR_SCHEDULES.register()
class ExponentialDecayLR(_Decay):
    """learning_rate * decay_rate^(step / decay_steps)."""

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        return self.learning_rate * self.decay_rate ** self.periods(step)


@LR_SCHEDULES.register()
class NaturalExpDecayLR(_Decay):
    """learning_rate * e^(-decay_rate * step); with `is_stair` the step is rounded down to whole periods."""

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        steps = self.periods(step) * self.decay_steps if self.is_stair else step
        return self.learning_rate * math.exp(-self.decay_rate * steps)


@LR_SCHEDULES.register()
class InverseDecayLR(_Decay):
    """learning_rate / (1 + decay_rate * step / decay_steps)."""

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        return self.learning_rate / (1 + self.decay_rate * self.periods(step))


@LR_SCHEDULES.register()
@dataclass(kw_only=True)
class CosineDecayLR:
    """Half a cosine from `max_lr` to `min_lr` over `decay_steps`."""

    min_lr: float
    max_lr: float
    decay_steps: int
    place: str = "lr_schedule"  # where the YAML has it, for messages

    def __post_init__(self) -> None:
        as_numbers(self, at_least_one="decay_steps")
        if not 0 <= self.min_lr < self.max_lr:
            raise ConfigError(f"{self.place}.min_lr", self.min_lr, f"Use 0 or more, below max_lr ({self.max_lr}).")

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        angle = math.pi * min(step, self.decay_steps) / self.decay_steps
        return self.min_lr + 0.5 * (self.max_lr - self.min_lr) * (1 + math.cos(angle))


@LR_SCHEDULES.register()
@dataclass(kw_only=True)
class PolynomialDecayLR:
    """(learning_rate - end_learning_rate) * (1 - progress)^power + end_learning_rate over `decay_steps`.

    With `update_decay_steps` the length grows by `decay_steps` whenever it is reached.
    """

    learning_rate: float
    end_learning_rate: float
    decay_steps: int
    power: float
    update_decay_steps: bool = False
    place: str = "lr_schedule"  # where the YAML has it, for messages

    def __post_init__(self) -> None:
        as_numbers(self, at_least_one="decay_steps")

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        length = self.decay_steps
        if self.update_decay_steps:
            length *= max(1, math.ceil(step / self.decay_steps))
        left = 1 - min(step, length) / length
        return (self.learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate


@LR_SCHEDULES.register()
@dataclass(kw_only=True)
class WarmUpLR:
    """A straight line from 0 to `learning_rate` over `warmup_steps`, then constant."""

    learning_rate: float
    warmup_steps: int
    place: str = "lr_schedule"  # where the YAML has it, for messages

    def __post_init__(self) -> None:
        as_numbers(self, at_least_one="warmup_steps")

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        return self.learning_rate * min(step, self.warmup_steps) / self.warmup_steps
