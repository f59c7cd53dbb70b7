r"""GLM-Z1-9B-0414 and GLM-Z1-32B-0414: a reply opens with a thought, and thoughts are no part of what was said before.

    [gMASK] <sop> <|user|> \n q <|assistant|> \n <think> {thought </think> answer <|user|>}

White space around user's and assistant's text is not written. A reply to learn from that has no thought gets an empty
one, because the prompt has opened it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from mindformers_glm.tokenizers.formats.base import Signs
from mindformers_glm.tokenizers.formats.glm4_0414 import Glm40414, is_0414
from mindformers_glm.tokenizers.formats.roles import Marked
from mindformers_glm.tokenizers.messages import Message

OPEN, CLOSE = "<think>", "</think>"
_INTRODUCTION = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)


class GlmZ1(Glm40414):
    """The chat format of GLM-Z1-*-0414."""

    thinks = True
    heading = f"{_INTRODUCTION}\n\n# 可用工具"

    @classmethod
    def is_told(cls, signs: Signs) -> bool:
        """See ChatFormat: thoughts in the template, or its name."""
        if signs.template:
            return signs.byte_pairs and OPEN in signs.template
        return signs.byte_pairs and is_0414(signs) and bool(re.search(r"(?<![a-z])z1(?![0-9])", signs.name))

    def opening(self) -> list[int]:
        """The assistant's role, and an opened thought."""
        encode = self.tokenizer.vocabulary.encode
        return [*super().opening(), *encode("\n"), *encode(OPEN)]

    def arranged(self, marked: Marked, *, learning: bool = False) -> Marked:
        """As the 0414 models, with thoughts dropped from all replies but one that is learned at the end."""
        written = [(_stripped(message), learn) for message, learn in super().arranged(marked)]
        if learning and written and written[-1][0].role == "assistant":
            said = marked[-1][0]
            if not said.metadata:
                written[-1] = (replace(said, content=_with_thought(said)), written[-1][1])
        return written

    def message(self, message: Message) -> list[int]:
        """Ids of one message; what the prompt has of a thought is encoded as it is there."""
        if message.role == "assistant" and message.content.startswith(OPEN):
            return [*self.opening(), *self.tokenizer.vocabulary.encode(message.content[len(OPEN) :])]
        return super().message(message)

    def given(self, message: Message) -> int:
        """The opening of a thought is given."""
        return len(self.opening()) if message.role == "assistant" and message.content.startswith(OPEN) else 1


def _stripped(message: Message) -> Message:
    if message.role == "assistant" and not message.metadata:
        return replace(message, content=message.content.rpartition(CLOSE)[2].strip())
    return replace(message, content=message.content.strip()) if message.role == "user" else message


def _with_thought(message: Message) -> str:
    content = message.content.strip()
    if message.reasoning:
        return f"{OPEN}\n{message.reasoning.strip()}\n{CLOSE}\n\n{content}"
    if content.startswith(OPEN):
        return content
    return f"{OPEN}{content}" if CLOSE in content else f"{OPEN}\n\n{CLOSE}\n\n{content}"
