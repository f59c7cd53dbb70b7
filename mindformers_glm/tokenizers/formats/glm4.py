r"""GLM-4-9B-chat, LongWriter, CodeGeeX4: the roles of ChatGLM3, tools described in a system message of their own.

    [gMASK] <sop> <|system|> \n ... # 可用工具 ... <|user|> \n q <|assistant|> {name \n {json} <|observation|>}

A call is the tool's name and a JSON object. A message without content is not written. The form is that of the model's
own Python code: every message encoded by itself, so that no text becomes a role and no newline joins across a border.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mindformers_glm.errors import GenerationError
from mindformers_glm.tokenizers.formats.base import Signs, functions
from mindformers_glm.tokenizers.formats.roles import Marked, Roles
from mindformers_glm.tokenizers.messages import NO_TOOLS, TOOLS_INTRODUCTION, Message

ASKS_FOR_JSON = "在调用上述函数时，请使用 Json 格式表示调用的参数。"
_INTRODUCTION = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)


class Glm4(Roles):
    """The chat format of GLM-4-9B-chat."""

    @classmethod
    def is_told(cls, signs: Signs) -> bool:
        """See ChatFormat; the formats after it are asked first."""
        return signs.byte_pairs and bool(signs.template)

    code_tools = ("interpreter", "python")
    heading = f"{_INTRODUCTION}\n\n# 可用工具"
    before_each = "\n\n"  # what stands before the description of a tool

    def arranged(self, marked: Marked, *, learning: bool = False) -> Marked:
        """Tools become a system message before the one that carries them; what says nothing is left out."""
        written: Marked = []
        for message, learn in marked:
            if message.tools not in NO_TOOLS:
                written.append((Message("system", self.tools_text(message.tools)), False))
            if message.tools is not None and message.content == TOOLS_INTRODUCTION:
                continue
            if self.body(message):
                written.append((replace(message, tools=None), learn))
        return written

    def tools_text(self, tools: Any) -> str:
        """The descriptions of tools."""
        return self.heading + "".join(
            f"{self.before_each}## {tool['name']}\n\n{self.printed(tool, 4)}\n{ASKS_FOR_JSON}"
            for tool in functions(tools)
        )

    def call_text(self, name: str, arguments: Any) -> str:
        """The arguments as a JSON object; code as it stands."""
        if name in self.code_tools and isinstance(arguments, Mapping) and list(arguments) == ["code"]:
            return str(arguments["code"])
        if isinstance(arguments, str):
            return arguments
        try:
            return json.dumps(arguments, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise GenerationError(f"tool call: arguments are not JSON ({error})") from error

    @property
    def end_id(self) -> int:
        """The user's turn, as the official fine-tuning has it."""
        return self.tokenizer.get_command("<|user|>")
