"""Weights & Biases: files in `<output>/wandb`, to be sent with `wandb sync`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.registry import TRACKERS
from mindformers_glm.train.trackers.interface import Begun, OnlineTracker, Status


@TRACKERS.register("wandb")
class WandB(OnlineTracker):
    """A run of Weights & Biases; `mode: online` sends it to the account that `wandb login` has set."""

    package, extra = "wandb", "wandb"

    def begin(self, run: Begun) -> None:
        """Opens the run."""
        run.output_dir.mkdir(parents=True, exist_ok=True)
        self._run: Any = self.module().init(
            project=self.project,
            name=self.run_name or run.name,
            dir=str(run.output_dir),
            config=dict(run.settings),
            mode=self.mode,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Metrics of a step."""
        self._run.log(dict(figures), step=step)

    def end(self, status: Status) -> None:
        """Closes the run."""
        self._run.finish(exit_code=0 if status == "finished" else 1)
