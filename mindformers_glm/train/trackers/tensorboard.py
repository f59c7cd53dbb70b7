"""TensorBoard: event files in `<output>/summary/rank_R`. Needs tensorboardX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.registry import TRACKERS
from mindformers_glm.train.trackers.interface import Begun, Status, Tracker


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Scalars, and the settings as a text. `summary_dir` replaces the folder."""

    package, extra = "tensorboardX", "tensorboard"

    def __init__(self, *, summary_dir: str | None = None, collect_freq: int = 1) -> None:
        super().__init__(collect_freq=collect_freq)
        self.summary_dir = summary_dir
        self._writer: Any = None

    def begin(self, run: Begun) -> None:
        """Opens the event file."""
        folder = Path(self.summary_dir) if self.summary_dir else run.output_dir / "summary" / "rank_0"
        self._writer = self.module().SummaryWriter(str(folder))
        if run.settings:
            lines = (f"    {key}: {value}" for key, value in run.settings.items())  # indented: shown as it is
            self._writer.add_text("settings", "\n".join(lines))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """A scalar each."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def end(self, status: Status) -> None:
        """Closes the event file."""
        self._writer.close()
