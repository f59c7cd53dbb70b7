"""GLM-4-9B-0414 and GLM-4-32B-0414: tools first and without introduction, then all system messages, then the rest."""

from __future__ import annotations

from dataclasses import replace

from mindformers_glm.tokenizers.formats.base import Signs
from mindformers_glm.tokenizers.formats.glm4 import Glm4
from mindformers_glm.tokenizers.formats.roles import Marked
from mindformers_glm.tokenizers.messages import NO_TOOLS, TOOLS_INTRODUCTION, Message


class Glm40414(Glm4):
    """GLM-4-*-0414. The metadata of an assistant alone is written; an empty message is written too."""

    heading = "# 可用工具\n"
    before_each = "\n"

    @classmethod
    def is_told(cls, signs: Signs) -> bool:
        """See ChatFormat: tools without an introduction; by its name or type where there is no template."""
        if signs.template:
            introduces = any(word in signs.template for word in ("ChatGLM", "名为", "GLM-4"))
            return signs.byte_pairs and "[gMASK]" in signs.template and "可用工具" in signs.template and not introduces
        return signs.byte_pairs and is_0414(signs)

    def arranged(self, marked: Marked, *, learning: bool = False) -> Marked:
        """See the module."""
        tools = [message.tools for message, _ in marked if message.tools not in NO_TOOLS]
        written = [(Message("system", self.tools_text(given)), False) for given in tools]
        systems = [pair for pair in marked if pair[0].role == "system" and not _announces(pair[0])]
        rest = [pair for pair in marked if pair[0].role != "system"]
        written += [(replace(message, tools=None, metadata=""), learn) for message, learn in systems]
        for message, learn in rest:
            written.append((message if message.role == "assistant" else replace(message, metadata=""), learn))
        return written


def is_0414(signs: Signs) -> bool:
    """Whether a model of 2025-04-14 is named: GLM-4-*-0414 or GLM-Z1-*-0414."""
    return signs.config.get("model_type") == "glm4" or "0414" in signs.name


def _announces(message: Message) -> bool:
    """True for a message that does nothing but offer tools."""
    return message.tools is not None and message.content in ("", TOOLS_INTRODUCTION)
