"""The import path of MindFormers for `Trainer`."""

from mindformers_glm.train.api import Trainer

__all__ = ["Trainer"]
