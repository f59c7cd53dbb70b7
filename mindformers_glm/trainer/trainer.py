"""The import path of MindFormers for `Trainer`."""

from mindformers_glm.tasks.api import Trainer

__all__ = ["Trainer"]
