"""How long a run is, where in the data a step lies, and how checkpoints number it. Steps are optimizer steps.

Sinking is a naming convention here, since nothing is sent to a device ahead of time. With `sink_mode: True` a run
has int(steps of an epoch / sink_size * epochs) sinks of `sink_size` steps, the remainder being dropped as in
MindFormers; log lines come once per sink, and checkpoints count sinks where they otherwise count epochs: with
sink_size 4 the third sink ends as `-3_4`. The data runs on through the epochs as without sinking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mindformers_glm.errors import ConfigError


class Position(NamedTuple):
    """A place in the data: epoch from 0, and steps of it that are behind."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
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
) -> Plan:
    """The plan for a dataset of `batches` batches; a step takes `accumulation` of them, an epoch whole steps only.

    Raises:
        ConfigError: not a single step would be made.
    """
    steps = batches // accumulation
    if steps < 1:
        fix = f"An epoch has {batches} batches and a step takes {accumulation}: use at most {batches}."
        raise ConfigError("runner_config.gradient_accumulation_steps", accumulation, fix)
    plan = Plan(epochs=epochs, steps_per_epoch=steps, sink_size=_sink(sink_mode, sink_size, steps), max_steps=max_steps)
    if plan.total_steps < 1:
        fix = f"{epochs} epochs of {steps} steps do not fill one sink: use at most {epochs * steps}, or -1."
        raise ConfigError("runner_config.sink_size", sink_size, fix)
    return plan


def _sink(sink_mode: bool, sink_size: int, steps: int) -> int:
    if not sink_mode:
        return 0
    if sink_size == -1:
        return steps
    if sink_size < 1:
        raise ConfigError("runner_config.sink_size", sink_size, "Use a number of steps above 0, or -1 for an epoch.")
    return sink_size
