"""Tokenizers of the GLM family, and the one renderer from messages to ids."""

from mindformers_glm.tokenizers.chat import Rendered, Renderer
from mindformers_glm.tokenizers.chatglm import (
    ChatGLM2Tokenizer,
    ChatGLM3Tokenizer,
    GLMTokenizer,
    check_fits,
)
from mindformers_glm.tokenizers.chatglm4 import ChatGLM4Tokenizer
from mindformers_glm.tokenizers.messages import Message, read_messages
from mindformers_glm.tokenizers.processor import GLMProcessor
from mindformers_glm.tokenizers.reply import Reply, ReplyStream, ToolCall, parse_reply
from mindformers_glm.tokenizers.stream import TextStream, stream_text

__all__ = [
    "ChatGLM2Tokenizer",
    "ChatGLM3Tokenizer",
    "ChatGLM4Tokenizer",
    "GLMProcessor",
    "GLMTokenizer",
    "Message",
    "Rendered",
    "Renderer",
    "Reply",
    "ReplyStream",
    "TextStream",
    "ToolCall",
    "check_fits",
    "parse_reply",
    "read_messages",
    "stream_text",
]
