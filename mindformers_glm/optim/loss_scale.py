"""Loss scales: the factor that keeps float16 gradients representable, and how it follows overflows.

Plain numbers on the host, read once per step together with the loss. A scale has `value`, `good_steps` (steps since
it last changed or overflowed) and `update(overflow)`; `state()` and `restore(...)` carry it through a checkpoint.
Semantics as MindSpore's and MindFormers' update cells of the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import SCALE_SENSES

MINIMUM = 1.0


@SCALE_SENSES.register("fixed_loss_scale")
class FixedLossScaleUpdateCell:
    """The same scale for ever; steps that overflow are skipped."""

    fixed = True

    def __init__(self, loss_scale_value: float = 1.0) -> None:
        self.value = _positive(loss_scale_value, "loss_scale_value")
        self.good_steps = 0

    def update(self, overflow: bool) -> None:
        """Takes note of one step."""
        self.good_steps = 0 if overflow else self.good_steps + 1

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain numbers."""
        return {"value": self.value, "good_steps": self.good_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state; a fixed scale keeps the value that this run asks for."""
        self.good_steps = int(state.get("good_steps", 0))
        if not self.fixed:
            self.value = float(state["value"])


@SCALE_SENSES.register("dynamic_loss_scale")
class DynamicLossScaleUpdateCell(FixedLossScaleUpdateCell):
    """Divided by `scale_factor` at an overflow, not below 1; multiplied after `scale_window` good steps in a row."""

    fixed = False

    def __init__(self, loss_scale_value: float = 65536, scale_factor: float = 2, scale_window: int = 1000) -> None:
        super().__init__(loss_scale_value)
        self.scale_factor, self.scale_window = _positive(scale_factor, "scale_factor"), int(scale_window)
        if self.scale_factor <= 1:
            raise ConfigError("scale_sense.scale_factor", scale_factor, "Use a factor above 1.")
        if self.scale_window < 1:
            raise ConfigError("scale_sense.scale_window", scale_window, "Use a number of steps, 1 or more.")

    def update(self, overflow: bool) -> None:
        """Lowers or raises the scale after one step."""
        super().update(overflow)
        if overflow:
            self.value = max(self.value / self.scale_factor, MINIMUM)
        elif self.good_steps >= self.scale_window:
            self.value, self.good_steps = self.value * self.scale_factor, 0
            self.raised()

    def raised(self) -> None:
        """Called when the scale has just been raised."""


@SCALE_SENSES.register("adaptive_loss_scale")
class AdaptiveLossScaleUpdateCell(DynamicLossScaleUpdateCell):
    """A dynamic scale whose window moves along a ladder from `min_scale_window` to `max_scale_window`.

    The third rise takes the next longer window; the third overflow without a rise between takes a window of 1 step.
    """

    def __init__(
        self,
        loss_scale_value: float = 65536,
        scale_factor: float = 2,
        scale_window: int = 20,
        max_scale_window: int = 1000,
        min_scale_window: int = 20,
    ) -> None:
        super().__init__(loss_scale_value, scale_factor, scale_window)
        if not 0 < int(min_scale_window) < int(max_scale_window):
            fix = f"It must be above 0 and below max_scale_window ({max_scale_window})."
            raise ConfigError("scale_sense.min_scale_window", min_scale_window, fix)
        self.ladder = _ladder(int(min_scale_window), int(max_scale_window))
        self.rung = self.ladder.index(self.scale_window) if self.scale_window in self.ladder else 0
        self.scale_window = self.ladder[self.rung]
        self.rises = self.falls = 0

    def update(self, overflow: bool) -> None:
        """Lowers or raises the scale, and moves the window."""
        super().update(overflow)
        if not overflow:
            return
        self.falls = (self.falls + 1) % 4
        if self.falls == 3 and self.rung > 0:
            self.rung, self.scale_window = -1, 1
            self.rises = self.falls = 0

    def raised(self) -> None:
        """Counts a rise; the third takes the next longer window."""
        self.rises, self.falls = (self.rises + 1) % 4, 0
        if self.rises == 3 and self.rung < len(self.ladder) - 1:
            self.rung, self.rises = self.rung + 1, 0
            self.scale_window = self.ladder[self.rung]

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain numbers."""
        return {**super().state(), "rung": self.rung, "rises": self.rises, "falls": self.falls}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        super().restore(state)
        if "rung" in state:
            self.rung, self.rises, self.falls = (int(state[name]) for name in ("rung", "rises", "falls"))
            self.scale_window = 1 if self.rung < 0 else self.ladder[self.rung]


LossScale = FixedLossScaleUpdateCell


def build_loss_scale(spec: Any, key: str = "runner_wrapper.scale_sense") -> LossScale:
    """The loss scale that a section, a number (a fixed scale) or nothing (1) describes.

    Raises:
        ConfigError: unknown name or argument, or a scale that is not above 0.
    """
    if isinstance(spec, FixedLossScaleUpdateCell):
        return spec
    if isinstance(spec, Mapping):
        return SCALE_SENSES.build(spec, key)
    if spec is None:
        return FixedLossScaleUpdateCell()
    try:
        return FixedLossScaleUpdateCell(float(spec))
    except (TypeError, ValueError):
        fix = "Give a number above 0, or a section with `type: DynamicLossScaleUpdateCell`."
        raise ConfigError(key, spec, fix) from None


def _ladder(shortest: int, longest: int) -> list[int]:
    """Windows from `shortest` to `longest`: going down, halves in whole hundreds, 50, then in steps of shortest / 2."""
    windows, window = [longest], float(longest)
    while window > shortest:
        if window > 100:
            window = int(window / 2 / 100) * 100
        elif window == 100:
            window /= 2
        else:
            window -= shortest / 2
        windows.append(max(int(window), shortest))
    return windows[::-1]


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"scale_sense.{name}", value, "Use a number above 0.")
    return number
