"""What a run says at its end: where the weights lie, and commands to paste."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from mindformers_glm.log import logger
from mindformers_glm.messages import say
from mindformers_glm.ops.speed import matrix_speed
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.goal import Best, Goal, plain
from mindformers_glm.train.state import RunState

_LONG_SECONDS = 10.0  # of training, from which on the half second is spent that MFU's denominator takes


class Ending(Callback):
    """Lines on rank 0 when the plan has been carried out; `program` is how the command line is started."""

    def __init__(self, *, config: Callable[[], Path] | None = None, program: str = "mindformers-glm") -> None:
        self.config, self.program = config, program
        self._seconds, self._steps, self._tokens = 0.0, 0, 0  # of all steps but the first of a process, which compiles

    def on_step_end(self, state: RunState) -> None:
        """Counts the time of steps."""
        if not state.first_step:
            self._seconds, self._steps = self._seconds + state.step_seconds + state.data_seconds, self._steps + 1
            self._tokens += state.tokens

    def on_train_end(self, state: RunState) -> None:
        """Says them."""
        if state.rank == 0:
            for line in self.lines(state):
                logger.info("%s", line)

    def lines(self, state: RunState) -> list[str]:
        """The lines, in the language of this process; commands only for what is there."""
        out = state.output_dir
        said = [say("Trained {steps} steps.", steps=state.done)]
        if state.result is not None:
            said = [
                say("Trained {steps} steps; the last loss is {loss:.4f}.", steps=state.done, loss=state.result.loss)
            ]
        if self._steps:
            said.append(say("  speed:           {speed}", speed=self._speed(state)))
        best = best_evaluation(state)
        if best is not None:
            step, name, value = best
            said.append(
                say("  best evaluation: {name} {value:.4f} after step {step}", name=name, value=value, step=step)
            )
        weights = out / "checkpoint_network"
        if not weights.is_dir():
            return said
        if state.loaded_best and state.best is not None:
            said.append(say("  best weights:    {folder} (of step {step})", folder=weights, step=state.best["step"]))
        else:
            said.append(say("  last weights:    {folder}", folder=weights))
            if state.best is not None:
                name = f"{state.best['prefix']}_rank_{state.rank}-{state.best['file'][0]}_{state.best['file'][1]}.ckpt"
                said.append(say("  best checkpoint: {file}", file=out / "checkpoint" / f"rank_{state.rank}" / name))
        place = shlex.quote(str(out))
        said.append(say("  chat:            {command}", command=f"{self.program} chat --model {place}"))
        config = self.config() if self.config is not None else None
        if config is not None and config.is_file():
            name = shlex.quote(str(config))
            words = f"evaluate --config {name} --load_checkpoint {place} --eval_dataset_dir FILE"
            said.append(say("  evaluate:        {command}", command=f"{self.program} {words}"))
            words = f"run --config {name} --resume_training true --epochs N"
            said.append(say("  train on:        {command}", command=f"{self.program} {words}"))
        return said

    def _speed(self, state: RunState) -> str:
        """Means over the run, in the units of docs/migration.md; MFU where a run was long enough to measure it for."""
        seconds, share = self._seconds / self._steps, state.data_ranks / max(state.rank_size, 1)
        tokens = self._tokens / self._steps
        said = (
            f"{tokens / seconds * share:.0f} tokens/s/p, {state.batch_size / seconds * share:.2f} samples/s/p, "
            f"{seconds * 1e3:.1f} ms per step"
        )
        if state.work is None or self._seconds < _LONG_SECONDS or not state.sequence_length:
            return said
        sequences = round(tokens * state.data_ranks / state.sequence_length)
        done, limit = state.work(sequences, state.sequence_length) / seconds / max(state.rank_size, 1), matrix_speed()
        return f"{said}, MFU {100 * done / limit:.1f} % of {limit / 1e9:.0f} GFLOP/s"


def best_evaluation(state: RunState) -> Best | None:
    """Step, name and value of the best result of evaluations while training: the least loss, or the greatest figure."""
    found = [(step, figures) for step, figures in plain(state.evaluations) if figures]
    return Goal().best(found, "metric")[0]
