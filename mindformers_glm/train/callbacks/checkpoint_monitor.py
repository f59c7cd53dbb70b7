"""Saves the run at intervals, at its end, and when the user stops it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.store import CheckpointStore
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.log import logger
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.state import RunState

_KEY = "callbacks.CheckpointMonitor"


@CALLBACKS.register("CheckpointMointor")
class CheckpointMonitor(Callback):
    """`output/checkpoint` and its neighbours, named as MindFormers names them (checkpoint/store.py has the table).

    Saves every `save_checkpoint_steps` steps or `save_checkpoint_seconds` seconds, whichever is given; with sinking
    only where a sink ends. The last step is saved in any case. `async_save` writes in a background thread.
    `exception_save` saves before an unexpected error ends the run. Configuration and tokenizer of the network are
    written beside the weights, so that the folder is a model.
    """

    def __init__(
        self,
        *,
        prefix: str = "CKP",
        directory: str | None = None,
        save_checkpoint_steps: int | None = None,
        save_checkpoint_seconds: int = 0,
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
    ) -> None:
        _refuse(enc_key, keep_checkpoint_per_n_minutes, checkpoint_format)
        self.prefix, self.directory = prefix, directory
        self.seconds = float(save_checkpoint_seconds or 0)
        steps = save_checkpoint_steps
        self.steps = (0 if self.seconds else 1) if steps is None else int(steps)
        if self.steps < 0 or self.seconds < 0 or not (self.steps or self.seconds):
            fix = "Use 1 or more steps, or set save_checkpoint_seconds."
            raise ConfigError(f"{_KEY}.save_checkpoint_steps", save_checkpoint_steps, fix)
        self.keep, self.background = int(keep_checkpoint_max), bool(async_save)
        self.save_network, self.save_trainable = save_network_params, save_trainable_params
        self.exception_save = exception_save
        self.store: CheckpointStore | None = None
        self._last_done, self._last_time, self._last_path = 0, 0.0, None

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

    def on_nothing_to_train(self, state: RunState) -> None:
        """Makes sure that the weights beside the last checkpoint are its weights."""
        self.on_train_begin(state)

    def on_step_end(self, state: RunState) -> None:
        """Saves when it is time."""
        if state.plan.sink_size and not state.plan.ends_unit(state.done):
            return
        due = self.steps and state.done - self._last_done >= self.steps
        if due or (self.seconds and time.monotonic() - self._last_time >= self.seconds):
            self._save(state, background=self.background)

    def on_train_end(self, state: RunState) -> None:
        """Saves the last step, unless it is saved already."""
        self._save_here(state)

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

    def _save_here(self, state: RunState) -> Path | None:
        if self._last_path is None or self._last_done != state.done:
            self._save(state, background=False)
        self.store.wait()
        return self._last_path

    def _save(self, state: RunState, *, background: bool) -> None:
        logger.info("......Saving ckpt......")
        if self._last_path is None and state.describe is not None and state.rank == 0:
            for folder in self.store.model_folders():
                state.describe(folder)
        self._last_path = self.store.save(state.capture(), background=background)
        self._last_done, self._last_time = state.done, time.monotonic()


def _refuse(enc_key: Any, per_minutes: int, checkpoint_format: str) -> None:
    if enc_key:
        raise ConfigError(f"{_KEY}.enc_key", "***", "Checkpoints are not encrypted here: use an encrypted disk.")
    if per_minutes:
        fix = "Use save_checkpoint_seconds and keep_checkpoint_max."
        raise ConfigError(f"{_KEY}.keep_checkpoint_per_n_minutes", per_minutes, fix)
    if checkpoint_format != "ckpt":
        fix = "Training states are .ckpt files; tools/convert_weight.py makes safetensors of their weights."
        raise ConfigError(f"{_KEY}.checkpoint_format", checkpoint_format, fix)
