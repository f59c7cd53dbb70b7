"""TensorBoard under MindFormers' name. Needs tensorboardX: `pip install mindformers_glm[tensorboard]`."""

from __future__ import annotations

from typing import Any

from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.tracking import Tracking
from mindformers_glm.train.trackers.tensorboard import TensorBoard


@CALLBACKS.register("SummaryCollector")
class SummaryMonitor(Tracking):
    """The tracker `tensorboard` (train/trackers), every `collect_freq` steps.

    Written to `summary_dir`, by default `<output>/summary/rank_0`. The other arguments choose what MindInsight
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
        super().__init__(TensorBoard(summary_dir=summary_dir, collect_freq=collect_freq))
