"""How long a run is, where in the data a step lies, and how checkpoints number it. Steps are optimizer steps.

Sinking is a naming convention here, since nothing is sent to a device ahead of time. With `sink_mode: True` a run
has int(steps of an epoch / sink_size * epochs) sinks of `sink_size` steps, the remainder being dropped as in
MindFormers; log lines come once per sink, and checkpoints count sinks where they otherwise count epochs: with
sink_size 4 the third sink ends as `-3_4`. The data runs on through the epochs as without sinking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger


class Position(NamedTuple):
    """A place in the data: epoch from 0, and completed steps of it."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The arithmetic of a run.

    `steps_per_epoch` are the steps of one pass over the data; `sink_size` is 0 without sinking.
    """

    epochs: int
    steps_per_epoch: int
    sink_size: int = 0
    max_steps: int | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, from its very start."""
        total = self.sinks * self.sink_size if self.sink_size else self.epochs * self.steps_per_epoch
        return total if self.max_steps is None else min(total, self.max_steps)

    @property
    def sinks(self) -> int:
        """How often a sink is filled."""
        return int(self.steps_per_epoch / self.sink_size * self.epochs)

    @property
    def unit(self) -> int:
        """Steps in what checkpoints call an epoch: a sink, or an epoch."""
        return self.sink_size or self.steps_per_epoch

    def position(self, done: int) -> Position:
        """Where in the data the step after `done` steps lies."""
        return Position(*divmod(done, self.steps_per_epoch))

    def ends_unit(self, done: int) -> bool:
        """True when a sink (or without sinking, an epoch) ends with step number `done`."""
        return done % self.unit == 0


def make_plan(
    *,
    batches: int,
    epochs: int = 1,
    sink_mode: bool = False,
    sink_size: int = -1,
    accumulation: int = 1,
    max_steps: int | None = None,
) -> TrainingPlan:
    """The plan for a dataset of `batches` batches; a step takes `accumulation` of them, an epoch whole steps only.

    Raises:
        ConfigError: not a single step would be made.
    """
    steps = batches // accumulation
    if steps < 1:
        fix = f"An epoch has {batches} batches and a step takes {accumulation}: use at most {batches}."
        raise ConfigError("runner_config.gradient_accumulation_steps", accumulation, fix)
    if batches % accumulation:
        logger.warning(
            "%d of %d batches of an epoch are left out: gradient_accumulation_steps %d does not divide them.",
            *(batches % accumulation, batches, accumulation),
        )
    plan = TrainingPlan(
        epochs=epochs, steps_per_epoch=steps, sink_size=_sink(sink_mode, sink_size, steps), max_steps=max_steps
    )
    if plan.total_steps < 1:
        fix = f"{epochs} epochs of {steps} steps do not fill one sink: use at most {epochs * steps}, or -1."
        raise ConfigError("runner_config.sink_size", sink_size, fix)
    left_out = epochs * steps - plan.sinks * plan.sink_size if plan.sink_size else 0
    if left_out:
        logger.warning(
            "%d of %d steps are left out: sink_size %d does not divide them, and sinks are whole, as in MindFormers. "
            "Set runner_config.sink_size: -1, or sink_mode: False, to make them all.",
            *(left_out, epochs * steps, plan.sink_size),
        )
    return plan


def warn_of_warm_up(schedule: Callable[[int], float], total_steps: int) -> None:
    """Warns where a run ends before its learning rate has risen, or has no rate but 0."""
    warm_up = int(getattr(schedule, "warmup_steps", 0) or 0)
    rates = [schedule(step) for step in range(min(total_steps, max(warm_up, 1) + 1))]
    if max(rates, default=1.0) > 0 and total_steps > warm_up:
        return
    what = "the rate stays at 0 and no weight changes" if max(rates) <= 0 else f"the rate only rises to {max(rates):g}"
    logger.warning(
        "The whole run, %d step%s, lies inside the warm-up (lr_schedule.warmup_steps %d, at least 1): %s. "
        "Lower warmup_steps, or train longer: more epochs, fewer gradient_accumulation_steps.",
        *(total_steps, "" if total_steps == 1 else "s", warm_up, what),
    )


def _sink(sink_mode: bool, sink_size: int, steps: int) -> int:
    if not sink_mode:
        return 0
    if sink_size == -1:
        return steps
    if sink_size < 1:
        raise ConfigError("runner_config.sink_size", sink_size, "Use a number of steps above 0, or -1 for an epoch.")
    return sink_size
