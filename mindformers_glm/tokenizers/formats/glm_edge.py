"""GLM-Edge-1.5B-chat and GLM-Edge-4B-chat: roles alone, nothing before the first, no tools."""

from __future__ import annotations

from mindformers_glm.errors import GenerationError
from mindformers_glm.tokenizers.formats.base import Signs
from mindformers_glm.tokenizers.formats.glm4 import Glm4
from mindformers_glm.tokenizers.formats.roles import Marked
from mindformers_glm.tokenizers.messages import NO_TOOLS, TOOLS_INTRODUCTION

_ROWS = 59264  # of the embedding of every GLM-Edge


class GlmEdge(Glm4):
    """The chat format of GLM-Edge."""

    @classmethod
    def is_told(cls, signs: Signs) -> bool:
        """See ChatFormat: a template without the prefix of the others, or the size of its vocabulary."""
        if signs.template:
            return signs.byte_pairs and "[gMASK]" not in signs.template
        named = "edge" in signs.name or signs.config.get("model_type") == "glm"
        return signs.byte_pairs and named and signs.config.get("vocab_size", _ROWS) == _ROWS

    def prefix(self) -> list[int]:
        """Nothing."""
        return []

    def arranged(self, marked: Marked, *, learning: bool = False) -> Marked:
        """System, user and assistant in order.

        Raises:
            GenerationError: tools, which this model does not know.
        """
        if any(message.tools not in NO_TOOLS for message, _ in marked):
            raise GenerationError("tools: GLM-Edge knows no tools; use GLM-4")
        return [pair for pair in marked if pair[0].tools is None or pair[0].content != TOOLS_INTRODUCTION]
