"""Fine-tune, evaluate and deploy the GLM family (ChatGLM2, ChatGLM3 and their kin) on MindSpore.

A name is imported when it is used first, so that `import mindformers_glm` costs nothing. Where MindSpore is not
installed, on a device with MindSpore Lite alone, there are the tokenizers and `mindformers_glm.export.lite`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from mindformers_glm.requirements import unmet
from mindformers_glm.version import __version__

if TYPE_CHECKING:
    from mindformers_glm.auto import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer
    from mindformers_glm.models.glm.config import ChatGLM2Config
    from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
    from mindformers_glm.pipeline import TextGenerationPipeline, pipeline
    from mindformers_glm.tasks.api import Trainer, TrainingArguments
    from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer

_HOMES = {
    "AutoConfig": "auto",
    "AutoModel": "auto",
    "AutoProcessor": "auto",
    "AutoTokenizer": "auto",
    "ChatGLM2Config": "models.glm.config",
    "ChatGLM2ForConditionalGeneration": "models.glm.model",
    "ChatGLM2Tokenizer": "tokenizers",
    "ChatGLM3Tokenizer": "tokenizers",
    "TextGenerationPipeline": "pipeline",
    "Trainer": "tasks.api",
    "TrainingArguments": "tasks.api",
    "pipeline": "pipeline",
}

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


class _Package(ModuleType):
    """`mindformers_glm.pipeline` is the function; the module of that name must not take its place when imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _HOMES):
            super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    fault = unmet()
    if fault:
        raise ImportError(fault)
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
