"""The import path of MindFormers for `TrainingArguments`."""

from mindformers_glm.tasks.api import TrainingArguments

__all__ = ["TrainingArguments"]
