r"""CodeGeeX2: a beginning of code that the model goes on with, `# language: Python\n# write a bubble sort\n`.

It was not trained on conversations: the last message is the prompt, as it stands. What was said before stands above it.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindformers_glm.errors import GenerationError
from mindformers_glm.labels import IGNORED
from mindformers_glm.tokenizers.formats.base import ChatFormat, Rendered, Signs
from mindformers_glm.tokenizers.messages import NO_TOOLS, TOOLS_INTRODUCTION, Message


class CodeGeeX2(ChatFormat):
    """The chat format of CodeGeeX2."""

    @classmethod
    def is_told(cls, signs: Signs) -> bool:
        """See ChatFormat."""
        return not signs.byte_pairs and ("codegeex2" in signs.name or "rotary_percent" in signs.config)

    def check(self, messages: list[Message]) -> None:
        """Raises GenerationError for tools."""
        self._parts(messages)

    def said(self, messages: list[Message]) -> list[int]:
        """See ChatFormat."""
        return self.tokenizer.encode("".join(self._parts(messages)))

    def prompt(self, messages: list[Message]) -> list[int]:
        """See ChatFormat."""
        if messages and messages[-1].role == "assistant":
            raise GenerationError("history: the last message must be the user's, the model goes on with it")
        return self.said(messages)

    def example(self, messages: list[Message], learned: Sequence[bool]) -> Rendered:
        """The last reply is learned; what stands before it is one text, as in a prompt."""
        if not messages or messages[-1].role != "assistant":
            ids = self.said(messages)
            return Rendered(ids, [IGNORED] * len(ids))
        start = self.said(messages[:-1])
        reply = [*self.tokenizer.encode(messages[-1].content, add_special_tokens=False), self.tokenizer.eos_token_id]
        target = reply if learned[-1] else [IGNORED] * len(reply)
        return Rendered(start + reply, [IGNORED] * (len(start) - 1) + target + [IGNORED])

    def _parts(self, messages: list[Message]) -> list[str]:
        if any(message.tools not in NO_TOOLS for message in messages):
            raise GenerationError("tools: CodeGeeX2 knows no tools; use CodeGeeX4")
        kept = [message for message in messages if message.tools is None or message.content != TOOLS_INTRODUCTION]
        texts = [message.content for message in kept]
        return [text if text.endswith("\n") else f"{text}\n" for text in texts[:-1]] + texts[-1:]
