"""Tokenizers of ChatGLM2 and ChatGLM3, and the one renderer from messages to ids."""

from mindformers_glm.tokenizers.chatglm import ChatGLM2Tokenizer, ChatGLM3Tokenizer, GLMTokenizer, check_fits
from mindformers_glm.tokenizers.processor import GLMProcessor

__all__ = ["ChatGLM2Tokenizer", "ChatGLM3Tokenizer", "GLMProcessor", "GLMTokenizer", "check_fits"]
