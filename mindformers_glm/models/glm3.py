"""The import path of MindFormers for ChatGLM3; its classes live in `models.glm` and `tokenizers`."""

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration, ChatGLM2Model
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer

__all__ = [
    "ChatGLM2Config",
    "ChatGLM2ForConditionalGeneration",
    "ChatGLM2Model",
    "ChatGLM2Tokenizer",
    "ChatGLM3Tokenizer",
]
