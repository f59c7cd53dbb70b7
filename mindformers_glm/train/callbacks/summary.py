"""TensorBoard. Needs tensorboardX: `pip install mindformers_glm[tensorboard]`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.state import RunState


@CALLBACKS.register("SummaryCollector")
class SummaryMonitor(Callback):
    """Loss, learning rate, loss scale and gradient norm for TensorBoard, every `collect_freq` steps.

    Written to `summary_dir`, by default `<output>/summary/rank_R`. The other arguments choose what MindInsight
    showed; they change nothing here.
    """

    def __init__(
        self,
        *,
        summary_dir: str | None = None,
        collect_freq: int = 10,
        collect_specified_data: Any = None,
        keep_default_action: bool = True,
        custom_lineage_data: Any = None,
        collect_tensor_freq: int | None = None,
        max_file_size: int | None = None,
        export_options: Any = None,
    ) -> None:
        if importlib.util.find_spec("tensorboardX") is None:
            fix = "It needs tensorboardX: pip install 'mindformers_glm[tensorboard]', or take it out of the list."
            raise ConfigError("callbacks.SummaryMonitor", "SummaryMonitor", fix)
        if int(collect_freq) < 1:
            raise ConfigError("callbacks.SummaryMonitor.collect_freq", collect_freq, "Use 1 or more.")
        self.summary_dir, self.collect_freq = summary_dir, int(collect_freq)
        self._writer: Any = None

    def on_train_begin(self, state: RunState) -> None:
        """Opens the event file."""
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - optional, its presence was checked

        folder = Path(self.summary_dir) if self.summary_dir else state.output_dir / "summary" / f"rank_{state.rank}"
        self._writer = SummaryWriter(str(folder))

    def on_step_end(self, state: RunState) -> None:
        """Writes four numbers when it is time."""
        if state.done % self.collect_freq == 0 or state.is_last:
            result = state.result
            for name in ("loss", "learning_rate", "loss_scale", "grad_norm"):
                self._writer.add_scalar(name, getattr(result, name), state.done)

    def close(self, state: RunState) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
