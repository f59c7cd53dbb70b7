"""Saves the run at intervals, at its end, and when the user stops it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.store import CheckpointStore
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.log import logger
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.goal import Best, Goal, make_goal
from mindformers_glm.train.state import RunState

_KEY = "callbacks.CheckpointMonitor"


@CALLBACKS.register("CheckpointMointor")
class CheckpointMonitor(Callback):
    """`output/checkpoint` and its neighbours, named as MindFormers names them (checkpoint/store.py has the table).

    Saves every `save_checkpoint_steps` steps, `save_checkpoint_seconds` seconds or `save_checkpoint_epochs` epochs,
    whichever is given; with sinking only where a sink ends. The last step is saved in any case. `async_save` writes in
    a background thread. `exception_save` saves before an unexpected error ends the run. Configuration and tokenizer of
    the network are written beside the weights, so that the folder is a model.

    `keep_best`: True, the name of a figure, or {metric: NAME, mode: max | min | auto}. Each evaluation that is better
    than all before it is saved too, whatever the intervals, and `keep_checkpoint_max` does not count it; meta.json
    names it. `load_best` (set by the key load_best_at_end) ends the run with its weights in the network and in
    checkpoint_network. Which one is best lies in every checkpoint, so that a resumed run goes on comparing.
    """

    def __init__(
        self,
        *,
        prefix: str = "CKP",
        directory: str | None = None,
        save_checkpoint_steps: int | None = None,
        save_checkpoint_seconds: int = 0,
        save_checkpoint_epochs: int = 0,
        keep_checkpoint_max: int = 5,
        keep_checkpoint_per_n_minutes: int = 0,
        integrated_save: bool = True,
        async_save: bool = False,
        save_network_params: bool = True,
        save_trainable_params: bool = False,
        exception_save: bool = False,
        enc_key: Any = None,
        enc_mode: str = "AES-GCM",
        checkpoint_format: str = "ckpt",
        remove_redundancy: bool = False,
        global_batch_size: int | None = None,
        keep_best: bool | str | dict[str, Any] = False,
    ) -> None:
        _refuse(enc_key, keep_checkpoint_per_n_minutes, checkpoint_format)
        self.prefix, self.directory = prefix, directory
        self.seconds = float(save_checkpoint_seconds or 0)
        steps = save_checkpoint_steps
        self.epochs = int(save_checkpoint_epochs or 0)
        self.steps = (0 if self.seconds or self.epochs else 1) if steps is None else int(steps)
        if min(self.steps, self.seconds, self.epochs) < 0 or not (self.steps or self.seconds or self.epochs):
            fix = "Use 1 or more steps, or set save_checkpoint_seconds."
            raise ConfigError(f"{_KEY}.save_checkpoint_steps", save_checkpoint_steps, fix)
        self.keep, self.background = int(keep_checkpoint_max), bool(async_save)
        self.save_network, self.save_trainable = save_network_params, save_trainable_params
        self.exception_save = exception_save
        self.store: CheckpointStore | None = None
        self.keep_best = _best_goal(keep_best)
        self.load_best = False
        self._last_done, self._last_time, self._last_path = 0, 0.0, None  # of the intervals
        self._saved_done = 0  # the step of _last_path

    @property
    def needs_evaluations(self) -> bool:
        """Whether there must be an EvalCallBack before it."""
        return self.keep_best is not None

    def on_train_begin(self, state: RunState) -> None:
        """Opens the folder."""
        trainable = [parameter.name for parameter in state.optimizer.parameters] if self.save_trainable else None
        self.store = CheckpointStore(
            user_path(self.directory) if self.directory else state.output_dir,
            self.prefix,
            rank=state.rank,
            rank_size=state.rank_size,
            keep=self.keep,
            save_network=self.save_network,
            trainable=trainable,
            resume=state.resumed_from or state.resumed,
        )
        self._last_done, self._last_time = state.done, time.monotonic()
        if state.resumed:
            self.store.renew_network(state.capture())
            self.store.best = self._best_name(state)
            self._keep_best(state)

    def on_nothing_to_train(self, state: RunState) -> None:
        """Makes sure that the weights beside the last checkpoint are its weights."""
        self.on_train_begin(state)
        self._load_best(state)

    def on_step_end(self, state: RunState) -> None:
        """Saves when it is time, and when an evaluation is the best."""
        self._keep_best(state)
        if state.plan.sink_size and not state.plan.ends_unit(state.done):
            return
        due = self.steps and state.done - self._last_done >= self.steps
        due = due or (self.epochs and state.ends_epoch and state.epoch % self.epochs == 0)
        if due or (self.seconds and time.monotonic() - self._last_time >= self.seconds):
            if not self._is_saved(state):
                self._save(state, background=self.background)
            self._last_done, self._last_time = state.done, time.monotonic()

    def on_train_end(self, state: RunState) -> None:
        """Saves the last step, unless it is saved already."""
        self._save_here(state)
        self._load_best(state)

    def on_interrupt(self, state: RunState) -> Path | None:
        """Saves the step at which the user stopped."""
        return self._save_here(state)

    def on_error(self, state: RunState, error: BaseException) -> None:
        """Saves, when asked to, unless saving is what failed."""
        if self.exception_save and state.done and self.store and not isinstance(error, CheckpointError):
            self._save_here(state)

    def close(self, state: RunState) -> None:
        """Waits for a background save."""
        if self.store is not None:
            self.store.close()

    @property
    def _opened(self) -> CheckpointStore:
        """The folder of the run; training has begun."""
        if self.store is None:
            raise LookupError("on_train_begin opens the folder")
        return self.store

    def _save_here(self, state: RunState) -> Path | None:
        if not self._is_saved(state):
            self._save(state, background=False)
        self._opened.wait()
        return self._last_path

    def _save(self, state: RunState, *, background: bool) -> None:
        logger.info("......Saving ckpt......")
        if self._last_path is None and state.describe is not None and state.rank == 0:
            for folder in self._opened.model_folders():
                state.describe(folder)
        self._last_path = self._opened.save(state.capture(), background=background)
        self._saved_done = state.done

    def _is_saved(self, state: RunState) -> bool:
        return self._last_path is not None and self._saved_done == state.done

    def _keep_best(self, state: RunState) -> None:
        """Saves the step just evaluated when it is the best."""
        if self.keep_best is None or not state.evaluations or state.evaluations[-1][0] != state.done:
            return
        figures, kept = state.evaluations[-1][1], state.best
        name = self.keep_best.name_in(figures, f"{_KEY}.keep_best.metric")
        other = kept["value"] if kept is not None and kept["name"] == name else None
        if (kept is not None and kept["step"] == state.done) or not self.keep_best.beats(name, figures[name], other):
            return
        epoch, step = divmod(state.done, state.plan.unit)
        file = [epoch, state.plan.unit] if step == 0 else [epoch + 1, step]
        best = Best(state.done, name, float(figures[name]))
        state.best = {**best._asdict(), "prefix": self._opened.prefix, "file": file}
        self._opened.wait()
        self._opened.best = self._best_name(state)
        self._save(state, background=self.background)

    def _best_name(self, state: RunState) -> dict[str, Any] | None:
        return None if self.keep_best is None else state.best

    def _load_best(self, state: RunState) -> None:
        if not self.load_best or state.best is None:
            return
        path = self._opened.best_path()
        if state.best["step"] != state.done:
            state.load_weights(path)
            self._opened.write_network(state.capture(), path.name)
        state.loaded_best = True
        logger.info("Loaded the best weights: step %d, %s %s", *(state.best[key] for key in ("step", "name", "value")))


def _best_goal(keep_best: Any) -> Goal | None:
    key = f"{_KEY}.keep_best"
    if keep_best in (False, None):
        return None
    given = {"metric": keep_best} if isinstance(keep_best, str) else {} if keep_best is True else keep_best
    if not isinstance(given, Mapping) or set(given) - {"metric", "mode"}:
        raise ConfigError(key, keep_best, "Use True, the name of a figure, or {metric: PPL, mode: min}.")
    return make_goal(given.get("metric"), str(given.get("mode") or "auto"), key)


def _refuse(enc_key: Any, per_minutes: int, checkpoint_format: str) -> None:
    if enc_key:
        raise ConfigError(f"{_KEY}.enc_key", "***", "Checkpoints are not encrypted here: use an encrypted disk.")
    if per_minutes:
        fix = "Use save_checkpoint_seconds and keep_checkpoint_max."
        raise ConfigError(f"{_KEY}.keep_checkpoint_per_n_minutes", per_minutes, fix)
    if checkpoint_format != "ckpt":
        fix = "Training states are .ckpt files; tools/convert_weight.py makes safetensors of their weights."
        raise ConfigError(f"{_KEY}.checkpoint_format", checkpoint_format, fix)
