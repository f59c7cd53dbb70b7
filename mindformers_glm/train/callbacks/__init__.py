"""What happens around steps: log lines, checkpoints, evaluation, curves. Names are those of MindFormers."""

from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.callbacks.build import build_callbacks
from mindformers_glm.train.callbacks.checkpoint_monitor import CheckpointMonitor
from mindformers_glm.train.callbacks.document_lines import BenchmarkRecord, DictMonitor
from mindformers_glm.train.callbacks.early_stopping import EarlyStopping
from mindformers_glm.train.callbacks.evaluation import EvalCallBack
from mindformers_glm.train.callbacks.history import LossHistory
from mindformers_glm.train.callbacks.loss_monitor import LossMonitor, MFLossMonitor, ProgressBar, TimeMonitor
from mindformers_glm.train.callbacks.profile import ObsMonitor, ProfileMonitor
from mindformers_glm.train.callbacks.summary import SummaryMonitor

__all__ = [
    "BenchmarkRecord",
    "Callback",
    "CheckpointMonitor",
    "DictMonitor",
    "EarlyStopping",
    "EvalCallBack",
    "LossHistory",
    "LossMonitor",
    "MFLossMonitor",
    "ObsMonitor",
    "ProfileMonitor",
    "ProgressBar",
    "SummaryMonitor",
    "TimeMonitor",
    "build_callbacks",
]
