"""The lines that MindFormers users read while training, and a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import datetime
import sys
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import FILE, SCREEN, console_above, logger
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.callbacks.screen import ScreenLine
from mindformers_glm.train.state import RunState

_BAR_WIDTH = 50


@CALLBACKS.register()
class MFLossMonitor(Callback):
    """Two lines every `per_print_times` steps; with sinking every `per_print_times` sinks.

    { Epoch:[  1/  2], step:[    3/    8], loss:[6.442/6.530], per_step_time: 24ms, lr: 5e-05, overflow cond: False,
    loss_scale: 65536.0 (one line), then percentage, bar, samples per second and device, and the time left. The second
    loss is the mean of the epoch so far; with sinking there is one number. The other arguments are MindFormers' and
    are known from the run itself.

    The console shows one aligned line instead (screen.py); `screen: mindformers` shows these two there too. The log
    file always keeps these.
    """

    def __init__(
        self,
        *,
        per_print_times: int = 1,
        learning_rate: Any = None,
        micro_batch_num: int = 1,
        micro_batch_interleave_num: int = 1,
        origin_epochs: int | None = None,
        dataset_size: int | None = None,
        initial_epoch: int = 0,
        initial_step: int = 0,
        global_batch_size: int = 0,
        gradient_accumulation_steps: int = 1,
        device_num: int = 0,
        check_for_nan_in_loss_and_grad: bool = False,
        screen: Literal["line", "mindformers"] = "line",
    ) -> None:
        if screen not in ("line", "mindformers"):
            raise ConfigError("callbacks.MFLossMonitor.screen", screen, "Use line or mindformers.")
        self.screen = screen
        self._shown = ScreenLine()
        self._audience: dict[str, str] | None = None
        self.per_print_times = _positive(per_print_times, "MFLossMonitor.per_print_times")
        self._seconds: list[float] = []
        self._losses: list[float] = []
        self._units = 0

    def on_train_begin(self, state: RunState) -> None:
        """Decides what the console shows."""
        self._audience = {"audience": FILE} if self.screen == "line" and state.rank == 0 else None

    def on_step_end(self, state: RunState) -> None:
        """Prints when it is time."""
        self._shown.add(state)
        self._seconds.append(state.step_seconds)
        if state.step_in_epoch == 1:
            self._losses.clear()
        self._losses.append(state.last.loss)
        if state.plan.sink_size and not state.plan.ends_unit(state.done):
            return
        self._units += 1
        if self._units % self.per_print_times == 0:
            self._print(state)
            self._seconds.clear()

    def _print(self, state: RunState) -> None:
        plan, result, seconds = state.plan, state.last, float(np.mean(self._seconds))
        if plan.sink_size:
            loss = f"loss: {result.loss:5.3f}"
        else:
            loss = f"loss:[{result.loss:5.3f}/{np.mean(self._losses):5.3f}]"
        scale = result.loss_scale if state.shows_scale else "unavailable"
        logger.info(
            "{ Epoch:[%3d/%3d], step:[%5d/%5d], %s, per_step_time: %dms, lr: %s, overflow cond: %s, loss_scale: %s",
            *(state.epoch, plan.epochs, state.step_in_epoch, plan.steps_per_epoch, loss, seconds * 1000),
            *(np.float32(result.learning_rate), result.overflow, scale),
            extra=self._audience,
        )
        share = state.done / plan.total_steps
        speed = state.global_batch / state.rank_size / max(seconds, 1e-9)
        left = datetime.timedelta(seconds=int((plan.total_steps - state.done) * seconds))
        bar = "█" * int(share * _BAR_WIDTH)
        logger.info("  %4.1f%% |%-50s| %.2f samples/s/p  %s }", share * 100, bar, speed, left, extra=self._audience)
        if self._audience is not None:
            logger.info("%s", self._shown.text(state), extra={"audience": SCREEN})


@CALLBACKS.register()
class LossMonitor(Callback):
    """MindSpore's short line: epoch, step and loss, every `per_print_times` steps."""

    def __init__(self, per_print_times: int = 1) -> None:
        self.per_print_times = _positive(per_print_times, "LossMonitor.per_print_times")

    def on_step_end(self, state: RunState) -> None:
        """Prints when it is time."""
        if state.done % self.per_print_times == 0:
            logger.info("epoch: %d step: %d, loss is %s", state.epoch, state.step_in_epoch, state.last.loss)


@CALLBACKS.register()
class TimeMonitor(Callback):
    """MindSpore's line at the end of each epoch: its time, and that of a step."""

    def __init__(self, data_size: int | None = None, data_time: bool = False) -> None:
        self._seconds: list[float] = []

    def on_step_end(self, state: RunState) -> None:
        """Takes note of the time."""
        self._seconds.append(state.step_seconds + state.data_seconds)

    def on_epoch_end(self, state: RunState) -> None:
        """Prints the two times."""
        total = sum(self._seconds) * 1000
        mean = total / max(len(self._seconds), 1)
        logger.info("Train epoch time: %.3f ms, per step time: %.3f ms", total, mean)
        self._seconds.clear()


class ProgressBar(Callback):
    """A tqdm bar on rank 0 when the error stream is a terminal; log lines are written above it."""

    def __init__(self, *, force: bool = False) -> None:
        self.force = force
        self._stack = contextlib.ExitStack()
        self._bar: tqdm | None = None

    def on_train_begin(self, state: RunState) -> None:
        """Shows the bar."""
        if state.rank == 0 and (self.force or sys.stderr.isatty()):
            self._stack.enter_context(console_above(tqdm.write))
            bar = tqdm(total=state.plan.total_steps, initial=state.done, unit="step", dynamic_ncols=True)
            self._bar = self._stack.enter_context(bar)

    def on_step_end(self, state: RunState) -> None:
        """Moves it on."""
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{state.last.loss:.3f}", lr=f"{state.last.learning_rate:.2e}")
            self._bar.update()

    def close(self, state: RunState) -> None:
        """Removes it and gives the log its stream back."""
        self._stack.close()
        self._bar = None


def _positive(value: Any, key: str) -> int:
    if int(value) < 1:
        raise ConfigError(f"callbacks.{key}", value, "Use 1 or more.")
    return int(value)
