"""Networks. An import path of MindFormers too: `from mindformers_glm.models import ChatGLM2Config` and its kin."""

from importlib import import_module
from typing import Any

_HOMES = {
    "ChatGLM2Config": "models.glm.config",
    "ChatGLM2ForConditionalGeneration": "models.glm.model",
    "ChatGLM2Model": "models.glm.model",
    "ChatGLM2Tokenizer": "tokenizers",
    "ChatGLM3Tokenizer": "tokenizers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mindformers_glm.{_HOMES[name]}"), name)
