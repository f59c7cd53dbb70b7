"""GLM-4-9B-0414 and GLM-4-32B-0414: tools first and without introduction, then all system messages, then the rest."""

from __future__ import annotations

from dataclasses import replace

from mindformers_glm.tokenizers.formats.glm4 import Glm4
from mindformers_glm.tokenizers.formats.roles import Marked
from mindformers_glm.tokenizers.messages import NO_TOOLS, TOOLS_INTRODUCTION, Message


class Glm40414(Glm4):
    """GLM-4-*-0414. The metadata of an assistant alone is written; an empty message is written too."""

    heading = "# 可用工具\n"
    before_each = "\n"

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


def _announces(message: Message) -> bool:
    """True for a message that does nothing but offer tools."""
    return message.tools is not None and message.content in ("", TOOLS_INTRODUCTION)
