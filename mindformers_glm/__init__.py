"""Fine-tune, evaluate and deploy the GLM family (ChatGLM2, ChatGLM3 and their kin) on MindSpore.

Importing the package fills the registries: every class that a YAML may name is known afterwards. Where MindSpore is not
installed, on a device with MindSpore Lite alone, there are the tokenizers and `mindformers_glm.export.lite`.
"""

from __future__ import annotations

from importlib.util import find_spec

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer
from mindformers_glm.version import __version__

if find_spec("mindspore"):
    from mindformers_glm import data, evaluation, generation, optim, tokenizers  # noqa: F401
    from mindformers_glm.auto import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer
    from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
    from mindformers_glm.pipeline import TextGenerationPipeline, pipeline
    from mindformers_glm.train import causal_language_modeling as _trainer  # noqa: F401 - registers the trainer
    from mindformers_glm.train.api import Trainer, TrainingArguments

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoProcessor",
    "AutoTokenizer",
    "ChatGLM2Config",
    "ChatGLM2ForConditionalGeneration",
    "ChatGLM2Tokenizer",
    "ChatGLM3Tokenizer",
    "TextGenerationPipeline",
    "Trainer",
    "TrainingArguments",
    "__version__",
    "pipeline",
]
