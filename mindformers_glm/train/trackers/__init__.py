"""Where the figures of a run are shown: one small interface (interface.py), a file for each tracker."""

from mindformers_glm.train.trackers.interface import Begun, Tracker, build_trackers
from mindformers_glm.train.trackers.mlflow import MLflow
from mindformers_glm.train.trackers.swanlab import SwanLab
from mindformers_glm.train.trackers.tensorboard import TensorBoard
from mindformers_glm.train.trackers.wandb import WandB

__all__ = ["Begun", "MLflow", "SwanLab", "TensorBoard", "Tracker", "WandB", "build_trackers"]
