"""What callbacks may read of a run, and its two-way mapping to a checkpoint's TrainState."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.store.resume import TrainState, capture_rng, read_train_state, restore_rng
from mindformers_glm.errors import CheckpointError
from mindformers_glm.optim import load_optimizer, optimizer_arrays
from mindformers_glm.train.goal import plain
from mindformers_glm.train.plan import Position, TrainingPlan
from mindformers_glm.train.step import StepResult, TrainStep

Arrays = dict[str, np.ndarray]


@dataclass
class RunState:
    """The run so far. The loop alone writes it.

    `done` counts completed steps (skipped ones included), `updates` those that changed the weights: the schedule is a
    function of `updates`, as in MindFormers.
    """

    step: TrainStep
    plan: TrainingPlan
    batch_size: int = 1  # samples of one step on this rank
    data: dict[str, Any] = field(default_factory=dict)  # what the order of the data depends on
    output_dir: Path = Path("output")
    rank: int = 0
    rank_size: int = 1
    data_ranks: int = 1
    shows_scale: bool = False
    resumed: bool = False
    resumed_from: str | None = None  # the checkpoint
    resume_hint: str = "set resume_training: True"
    division: dict[str, Any] | None = None  # how ranks divide the state, for a resume on others
    describe: Callable[[Path], None] | None = None  # writes what makes a folder of these weights a model
    on_disk: Callable[[Arrays], Arrays] | None = None  # what this rank writes, from what it keeps in memory
    from_disk: Callable[[TrainState, Path], TrainState] | None = None  # the way back, for a state read from a file
    work: Callable[[int, int], float] | None = None  # operations of a step of (sequences, tokens of each) on all ranks

    done: int = 0
    updates: int = 0
    result: StepResult | None = None
    step_seconds: float = 0.0
    data_seconds: float = 0.0
    overflows: int = 0
    tokens: int = 0  # of the last step on this rank, padding included
    sequence_length: int = 0  # tokens of a sequence of the last step
    evaluations: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # (completed steps, result)
    best: dict[str, Any] | None = None  # the best checkpoint: step, metric, value, prefix and (epoch, step) of its file
    loaded_best: bool = False  # the network holds its weights, not those of the last step
    ends_early: bool = False  # set by a callback: no step follows the one just made
    first_step: bool = True  # the step just made was the first of this process, with compilation

    @property
    def last(self) -> StepResult:
        """The result of the last step.

        Raises:
            LookupError: no step was made in this process.
        """
        if self.result is None:
            raise LookupError("no step has been made")
        return self.result

    @property
    def network(self) -> nn.Cell:
        """The network being trained."""
        return self.step.network

    @property
    def optimizer(self) -> nn.Cell:
        """Its optimizer."""
        return self.step.optimizer

    @property
    def epoch(self) -> int:
        """Epoch of the data that the last step belongs to, from 1."""
        return self.plan.position(max(self.done - 1, 0)).epoch + 1

    @property
    def step_in_epoch(self) -> int:
        """Number of the last step in its epoch, from 1."""
        return self.plan.position(max(self.done - 1, 0)).step + 1

    @property
    def ends_epoch(self) -> bool:
        """True after the last step of an epoch of the data."""
        return self.done % self.plan.steps_per_epoch == 0

    @property
    def is_last(self) -> bool:
        """True after the last step of the run."""
        return self.done >= self.plan.total_steps

    @property
    def global_batch(self) -> int:
        """Samples of one step on all data ranks."""
        return self.batch_size * self.data_ranks

    def capture(self) -> TrainState:
        """The present moment, for a checkpoint. Arrays may be live views of parameters: write or copy them at once."""
        epoch, step = divmod(self.done, self.plan.unit)
        weights = {parameter.name: parameter.asnumpy() for parameter in self.network.get_parameters()}
        moments = optimizer_arrays(self.optimizer)
        moments.pop("global_step", None)  # written by the checkpoint itself
        if self.on_disk is not None:
            weights, moments = self.on_disk(weights), self.on_disk(moments)
        scale = self.step.loss_scale
        division = {} if self.division is None else {"division": self.division}
        return TrainState(
            epoch=epoch,
            step_in_epoch=step,
            global_step=self.updates,
            loss_scale=scale.value,
            loss_scale_good_steps=scale.good_steps,
            rng=capture_rng(),
            weights=weights,
            optimizer=moments,
            data={
                **self.data,
                **division,
                "global_batch": self.global_batch,
                "done": self.done,
                "loss_scale": scale.state(),
                **({"evaluations": plain(self.evaluations)} if self.evaluations else {}),
                **({} if self.best is None else {"best": self.best}),
            },
            steps_per_epoch=self.plan.unit,
        )

    def restore(self, saved: TrainState, *, place: str) -> None:
        """Goes on from a checkpoint: weights, optimizer, loss scale, counters, random state.

        `place` names the checkpoint in messages.

        Raises:
            CheckpointError: it does not fit the network, the optimizer or the data. Weights are checked first.
        """
        done = self._steps_behind(saved, place)
        load_into(self.network, saved.weights)
        load_optimizer(self.optimizer, {**saved.optimizer, "global_step": np.array([saved.global_step])}, place=place)
        scale = {"value": saved.loss_scale, "good_steps": saved.loss_scale_good_steps}
        self.step.loss_scale.restore(saved.data.get("loss_scale") or scale)
        restore_rng(saved.rng)
        self.done, self.updates, self.resumed, self.resumed_from = done, saved.global_step, True, place
        made = saved.data.get("done") or done or 1
        try:
            told = [(int(step), dict(figures)) for step, figures in saved.data.get("evaluations", [])]
            self.evaluations = [(step * done // made, figures) for step, figures in told]  # another batch: other steps
            best = saved.data.get("best")
            self.best = {**best, "step": best["step"] * done // made} if best else None
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(place, "its evaluations cannot be read", "Use an earlier checkpoint.") from error

    def load_weights(self, path: Path) -> None:
        """Puts the weights of one of the run's checkpoints into the network; everything else stays.

        Raises:
            CheckpointError: it is missing or damaged, or does not fit.
        """
        saved = read_train_state(path, steps_per_epoch=self.plan.unit)
        load_into(self.network, (self.from_disk(saved, path) if self.from_disk else saved).weights)

    def position(self) -> Position:
        """Where in the data the next step lies."""
        return self.plan.position(self.done)

    def _steps_behind(self, saved: TrainState, place: str) -> int:
        """Steps of this run's size that the saved run has made."""
        made = saved.data.get("done", saved.epoch * (saved.steps_per_epoch or self.plan.unit) + saved.step_in_epoch)
        for name, value in self.data.items():
            if name in saved.data and saved.data[name] != value:
                fault = f"it was saved with {name} {saved.data[name]}, and this run has {value}"
                raise CheckpointError(place, fault, "The order of the data would change: resume with the same.")
        before = saved.data.get("global_batch", self.global_batch)
        if before == self.global_batch:
            return made
        done, rest = divmod(made * before, self.global_batch)
        if rest:
            fault = f"it was saved after {made * before} samples, which are no whole steps of {self.global_batch}"
            fix = f"Resume with a global batch that divides them, for example {before}."
            raise CheckpointError(place, fault, fix)
        return done


def data_identity(dataset: Any) -> dict[str, Any]:
    """What the order of a dataset's rows depends on, as plain values: a run resumes only on the same."""
    order = getattr(dataset, "order", None)
    names = ("num_rows", "seed", "shuffle", "drop_remainder", "repeat")
    return {name: getattr(order, name) for name in names if hasattr(order, name)}
