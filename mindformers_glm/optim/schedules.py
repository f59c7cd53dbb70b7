"""Learning-rate schedules of MindFormers: plain callables `schedule(step) -> float`, step 0 being the first update.

The arithmetic is float32 in the order of MindFormers, whose first step has rate 0 unless `warmup_lr_init` says
otherwise: warm-up lasts at least one step while the decay length uses the given number. Inside its range a
schedule equals the original; beyond it, where the original turned negative, rose again or became NaN, the rate
stays at its end value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import LR_SCHEDULES, Checked

Schedule = Callable[[int], float]
_f32 = np.float32


def build_schedule(spec: Any, key: str = "lr_schedule", *, total_steps: int = -1, steps_per_epoch: int = 0) -> Schedule:
    """The schedule that a YAML section, a number or a callable describes.

    `total_steps`, the updates of the whole run, stands in for a missing or -1 `total_steps` of the section;
    `steps_per_epoch` gives `warmup_epochs` its length. Where several lengths of the warm-up are given,
    `warmup_ratio` wins over `warmup_epochs`, and that over `warmup_steps`.

    Raises:
        ConfigError: unknown name or argument, or values that contradict each other.
    """
    if callable(spec):
        return spec
    if not isinstance(spec, Mapping):
        return Constant(learning_rate=_number(spec, key))
    given = {name: value for name, value in spec.items() if value is not None}
    factory = LR_SCHEDULES.get(given.get("type"), f"{key}.type")
    if isinstance(factory, type) and issubclass(factory, ConstantWarmUpLR):
        if given.get("total_steps", -1) == -1:
            given["total_steps"] = total_steps
        _settle_warm_up(given, key, steps_per_epoch)
    make = LR_SCHEDULES.create if isinstance(spec, Checked) else LR_SCHEDULES.build
    return make(given, key, place=key)


@LR_SCHEDULES.register("constant")
@dataclass(kw_only=True)
class Constant:
    """The same rate at every step."""

    learning_rate: float

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        return float(_f32(self.learning_rate))


@LR_SCHEDULES.register("constant_with_warmup")
@dataclass(kw_only=True)
class ConstantWarmUpLR:
    """Linear warm-up from `warmup_lr_init`, then constant."""

    learning_rate: float
    warmup_steps: int = 0
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    total_steps: int = -1
    place: str = "lr_schedule"  # where the YAML has it, for messages

    def __post_init__(self) -> None:
        as_numbers(self)
        if self.warmup_ratio is not None:
            self.warmup_steps = _share(self.warmup_ratio, self.total_steps, self.place)
        if self.learning_rate < 0 or self.warmup_steps < 0:
            name = "learning_rate" if self.learning_rate < 0 else "warmup_steps"
            raise ConfigError(f"{self.place}.{name}", getattr(self, name), "Use 0 or more.")
        self._warm_up = max(1, self.warmup_steps)
        self._decay = max(1, self.total_steps - self.warmup_steps)

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        if step < self._warm_up:
            rise = _f32(self.learning_rate) * (_f32(step) / _f32(self._warm_up))
            return float(_f32(self.warmup_lr_init) + rise)
        return float(self.after_warm_up(step))

    def after_warm_up(self, step: int) -> np.float32:
        """Rate of an update after the warm-up."""
        return _f32(self.learning_rate)

    def progress(self, step: int) -> np.float32:
        """How much of the decay is completed, from 0 to 1."""
        return min(_f32(1), (_f32(step) - _f32(self._warm_up)) / _f32(self._decay))

    def need_total_steps(self) -> None:
        """Raises ConfigError when the length of the run is unknown."""
        if self.total_steps < 1:
            raise ConfigError(
                f"{self.place}.total_steps", self.total_steps, "The length of the run is unknown: give it."
            )


@LR_SCHEDULES.register("linear")
@dataclass(kw_only=True)
class LinearWithWarmUpLR(ConstantWarmUpLR):
    """Linear warm-up, then a straight line to 0 at `total_steps`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_total_steps()

    def after_warm_up(self, step: int) -> np.float32:
        """Rate of an update after the warm-up; counted from the end, as the original does."""
        left = (_f32(self.total_steps) - _f32(step)) / _f32(self._decay)
        return _f32(self.learning_rate) * max(_f32(0), left)


@LR_SCHEDULES.register("polynomial")
@dataclass(kw_only=True)
class PolynomialWithWarmUpLR(LinearWithWarmUpLR):
    """Linear warm-up, then (learning_rate - lr_end) * (1 - progress)^power + lr_end."""

    lr_end: float = 1e-7
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr_end <= self.learning_rate:
            raise ConfigError(
                f"{self.place}.lr_end", self.lr_end, f"It must not be above learning_rate ({self.learning_rate})."
            )

    def after_warm_up(self, step: int) -> np.float32:
        """Rate of an update after the warm-up."""
        left = _f32(float(_f32(1) - self.progress(step)) ** self.power)
        return (_f32(self.learning_rate) - _f32(self.lr_end)) * left + _f32(self.lr_end)


@LR_SCHEDULES.register("cosine")
@dataclass(kw_only=True)
class CosineWithWarmUpLR(LinearWithWarmUpLR):
    """Linear warm-up, then a cosine of `num_cycles` periods, half a period being the default, down to `lr_end`."""

    num_cycles: float = 0.5
    lr_end: float = 0.0

    def after_warm_up(self, step: int) -> np.float32:
        """Rate of an update after the warm-up."""
        return self.between(_half_wave(_f32(math.pi) * _f32(self.num_cycles) * _f32(2) * self.progress(step)))

    def between(self, share: np.float32) -> np.float32:
        """The rate at `share` (1: learning_rate, 0: lr_end) of the way."""
        return _f32(self.lr_end) + (_f32(self.learning_rate) - _f32(self.lr_end)) * share


@LR_SCHEDULES.register("cosine_with_restarts")
@dataclass(kw_only=True)
class CosineWithRestartsAndWarmUpLR(CosineWithWarmUpLR):
    """Linear warm-up, then `num_cycles` half cosines, each from the top down; 0 from `total_steps` on."""

    num_cycles: float = 1.0

    def after_warm_up(self, step: int) -> np.float32:
        """Rate of an update after the warm-up."""
        progress = self.progress(step)
        if progress >= 1:
            return _f32(0)
        cycles = _f32(self.num_cycles) * progress
        return self.between(_half_wave(_f32(math.pi) * (cycles - np.floor(cycles))))


@LR_SCHEDULES.register()
@dataclass(kw_only=True)
class WarmUpDecayLR:
    """Linear warm-up from 0 while step < warmup_steps, else a decay over `decay_steps` counted from step 0."""

    learning_rate: float
    end_learning_rate: float
    warmup_steps: int
    decay_steps: int
    use_cosine: bool = False
    place: str = "lr_schedule"  # where the YAML has it, for messages

    def __post_init__(self) -> None:
        as_numbers(self, at_least_one="decay_steps")

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        top, end = _f32(self.learning_rate), _f32(self.end_learning_rate)
        if step < self.warmup_steps:
            return float(top * (_f32(step) / _f32(self.warmup_steps)))
        span = _f32(self.learning_rate - self.end_learning_rate)
        progress = _f32(min(step, self.decay_steps)) / _f32(self.decay_steps)
        left = _half_wave(_f32(math.pi) * progress) if self.use_cosine else _f32(1) - progress
        return float(span * left + end)


@LR_SCHEDULES.register()
class LearningRateWiseLayer:
    """`lr_scale` times another schedule, which is a section, a number or a callable."""

    def __init__(self, *, base_lr: Any, lr_scale: float, place: str = "lr_schedule") -> None:
        self.base, self.lr_scale = build_schedule(base_lr, f"{place}.base_lr"), float(lr_scale)

    def __call__(self, step: int) -> float:
        """Rate of this update."""
        return float(_f32(self.lr_scale) * _f32(self.base(step)))


def _settle_warm_up(spec: dict[str, Any], key: str, steps_per_epoch: int) -> None:
    """Turns `warmup_epochs`, which only the trainer can, into `warmup_steps`."""
    epochs = spec.pop("warmup_epochs", None)
    if epochs is None or spec.get("warmup_ratio") is not None:
        return
    if steps_per_epoch < 1:
        raise ConfigError(f"{key}.warmup_epochs", epochs, "The length of an epoch is unknown: use warmup_steps.")
    spec["warmup_steps"] = int(_number(epochs, f"{key}.warmup_epochs") * steps_per_epoch)


def _share(ratio: float, total_steps: int, key: str) -> int:
    if not 0 <= ratio <= 1:
        raise ConfigError(f"{key}.warmup_ratio", ratio, "It is a share of all steps, from 0 to 1.")
    if total_steps < 1:
        raise ConfigError(f"{key}.warmup_ratio", ratio, "The length of the run is unknown: give total_steps.")
    return int(total_steps * ratio)


def as_numbers(schedule: Any, *, at_least_one: str | None = None) -> None:
    """Gives every field the number that its annotation names, so that `1e-5` read from YAML as text works.

    Raises:
        ConfigError: a field is no number, or the field of that name is below 1.
    """
    kinds = {"int": int, "float": float, "float | None": float}
    for field in fields(schedule):
        value, kind = getattr(schedule, field.name), kinds.get(str(field.type))
        if kind is not None and value is not None:
            setattr(schedule, field.name, kind(_number(value, f"{schedule.place}.{field.name}")))
    if at_least_one is not None and getattr(schedule, at_least_one) < 1:
        raise ConfigError(f"{schedule.place}.{at_least_one}", getattr(schedule, at_least_one), "Use 1 or more.")


def _half_wave(angle: np.float32) -> np.float32:
    """(1 + cos(angle)) / 2 in float32, the cosine rounded once from float64."""
    return max(_f32(0), _f32(0.5) * (_f32(1) + _f32(math.cos(float(angle)))))


def _number(value: Any, key: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(key, value, "Expected a number, or a section with `type`.") from None
