"""The import path of MindFormers for `TrainingArguments`."""

from mindformers_glm.train.api import TrainingArguments

__all__ = ["TrainingArguments"]
