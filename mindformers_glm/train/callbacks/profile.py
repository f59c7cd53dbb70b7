"""MindSpore's profiler over some steps, and the callback of ModelArts that has nothing to do here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.runtime import device_target
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.state import RunState


@CALLBACKS.register()
class ProfileMonitor(Callback):
    """Profiles steps `start_step` to `stop_step` into `output_path`, by default `<output>/profile/rank_R`.

    On a CPU the result holds operator times; memory and communication belong to Ascend.
    """

    def __init__(
        self,
        *,
        start_step: int = 1,
        stop_step: int = 10,
        output_path: str | None = None,
        start_profile: bool = True,
        profile_communication: bool = False,
        profile_memory: bool = True,
    ) -> None:
        if not 1 <= int(start_step) <= int(stop_step):
            fix = f"Use 1 or more, and at most stop_step ({stop_step})."
            raise ConfigError("callbacks.ProfileMonitor.start_step", start_step, fix)
        self.start_step, self.stop_step, self.output_path = int(start_step), int(stop_step), output_path
        wanted = {"profile_communication": profile_communication, "profile_memory": profile_memory}
        self.settings = {name: True for name, value in wanted.items() if value and device_target() == "Ascend"}
        self._profiler: Any = None
        self._steps = 0

    def on_train_begin(self, state: RunState) -> None:
        """Starts when the first step is wanted."""
        self._start(state, next_step=1)

    def on_step_end(self, state: RunState) -> None:
        """Starts before and stops after the steps that are wanted."""
        self._steps += 1
        if self._profiler is not None and (self._steps >= self.stop_step or state.is_last):
            self._stop()
        self._start(state, next_step=self._steps + 1)

    def close(self, state: RunState) -> None:
        """Stops when training ended within the steps that are wanted."""
        self._stop()

    def _start(self, state: RunState, *, next_step: int) -> None:
        if next_step != self.start_step:
            return
        from mindspore import Profiler  # noqa: PLC0415 - starts its services when imported

        folder = Path(self.output_path) if self.output_path else state.output_dir / "profile" / f"rank_{state.rank}"
        self._profiler = Profiler(start_profile=False, output_path=str(folder.resolve()), **self.settings)
        self._profiler.start()
        logger.info("Profiling until step %d of this run, into %s", self.stop_step, folder)

    def _stop(self) -> None:
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            profiler.stop()
            profiler.analyse()


@CALLBACKS.register()
class ObsMonitor(Callback):
    """Accepted without effect: uploading belongs to ModelArts."""

    def __init__(
        self,
        *,
        src_dir: str | None = None,
        target_dir: str | None = None,
        rank_id: int | None = None,
        step_upload_frequence: int = 100,
        epoch_upload_frequence: int = -1,
        keep_last: bool = True,
    ) -> None:
        pass
