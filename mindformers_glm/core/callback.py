"""The import path of MindFormers for callbacks; they live in `train.callbacks`."""

from mindformers_glm.core import (
    CheckpointMointor,
    CheckpointMonitor,
    EarlyStopping,
    EvalCallBack,
    MFLossMonitor,
    ObsMonitor,
    ProfileMonitor,
    SummaryMonitor,
    build_callback,
)

__all__ = [
    "CheckpointMointor",
    "CheckpointMonitor",
    "EarlyStopping",
    "EvalCallBack",
    "MFLossMonitor",
    "ObsMonitor",
    "ProfileMonitor",
    "SummaryMonitor",
    "build_callback",
]
