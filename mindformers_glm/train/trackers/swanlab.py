"""SwanLab: files in `<output>/swanlab`, to be looked at with `swanlab watch` or sent with `swanlab sync`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.registry import TRACKERS
from mindformers_glm.train.trackers.interface import Begun, OnlineTracker, Status


@TRACKERS.register("swanlab")
class SwanLab(OnlineTracker):
    """An experiment of SwanLab; `mode: online` sends it to the account that `swanlab login` has set."""

    package, extra = "swanlab", "swanlab"

    def begin(self, run: Begun) -> None:
        """Opens the experiment."""
        folder = run.output_dir / "swanlab"
        folder.mkdir(parents=True, exist_ok=True)
        self._swanlab: Any = self.module()
        self._swanlab.init(
            project=self.project,
            experiment_name=self.run_name or run.name,
            config=dict(run.settings),
            logdir=str(folder),
            mode="cloud" if self.mode == "online" else "offline",
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Metrics of a step."""
        self._swanlab.log(dict(figures), step=step)

    def end(self, status: Status) -> None:
        """Closes the experiment."""
        if status == "finished":
            self._swanlab.finish()
        else:
            self._swanlab.finish(state="crashed", error=status)
