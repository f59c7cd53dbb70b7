"""The import path of MindFormers for `Trainer` and its kin: `from mindformers_glm.trainer import Trainer`."""

from mindformers_glm.tasks.api import Trainer, TrainingArguments
from mindformers_glm.tasks.causal_language_modeling import CausalLanguageModelingTrainer

__all__ = ["CausalLanguageModelingTrainer", "Trainer", "TrainingArguments"]
