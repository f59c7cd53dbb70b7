"""The one renderer from messages to ids and labels, for training, evaluation, chat and server.

`prompt(messages)` is the beginning of `example(messages + [reply]).ids`. The rules of each kind of model are in
tokenizers/formats.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.labels import IGNORED
from mindformers_glm.tokenizers.formats import chat_format
from mindformers_glm.tokenizers.formats.base import Rendered
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.messages import Message, read_messages

LossPolicy = Literal["all", "last", "per_message"]
__all__ = ["IGNORED", "POLICIES", "LossPolicy", "Rendered", "Renderer", "learned_messages"]

POLICIES = ("all", "last", "per_message")


class Renderer:
    """Messages -> ids by the rules of the tokenizer's chat format.

    `tools_indent` is how the descriptions of tools are printed: 4 as the official chat does, None on one line.
    """

    def __init__(self, tokenizer: GLMTokenizer, *, tools_indent: int | None = 4) -> None:
        self.tokenizer = tokenizer
        self._rules = chat_format(tokenizer.chat_format, tokenizer, tools_indent=tools_indent)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a reply."""
        return self._rules.stop_ids

    def prompt(
        self, history: Iterable[Any], query: str | None = None, *, open_reply: bool = True, **more: Any
    ) -> list[int]:
        """Ids that wait for the assistant's reply. `history` and `more` as for `read_messages`.

        Without `open_reply` they end with the last message, whoever said it.

        Raises:
            GenerationError: the conversation has a form that this model does not know.
        """
        messages = read_messages(history, query, **more)
        return self._rules.prompt(messages) if open_reply else self._rules.said(messages)

    def text(self, ids: list[int]) -> str:
        """The text that stands for the ids of a prompt, special tokens by name."""
        return self._rules.text(ids)

    def check(self, messages: list[Message]) -> None:
        """Raises GenerationError when a conversation to learn from has a form that this model does not know."""
        self._rules.check(messages)
        if not any(message.role == "assistant" for message in messages):
            raise GenerationError("no assistant message, nothing to learn")

    def example(self, history: Iterable[Any], *, loss: LossPolicy = "all", **more: Any) -> Rendered:
        """Ids and labels of a whole conversation.

        `loss`: "all" learns every assistant message, "last" those after the last user message, "per_message"
        those that say `loss: true`. A message's own `loss` decides over "all" and "last".

        Raises:
            GenerationError: the conversation has a form that this model does not know.
        """
        messages = read_messages(history, **more)
        return self._rules.example(messages, learned_messages(messages, loss))


def learned_messages(messages: list[Message], policy: LossPolicy) -> list[bool]:
    """Which messages are learned.

    Raises:
        ConfigError: the policy has another name.
    """
    if policy not in POLICIES:
        raise ConfigError("loss_policy", policy, f"Use one of {', '.join(POLICIES)}.")
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    recent = users[-1] if users else -1
    usual = {"all": lambda index: True, "last": lambda index: index > recent, "per_message": lambda index: False}[
        policy
    ]
    return [
        message.role == "assistant" and (usual(index) if message.loss is None else bool(message.loss))
        for index, message in enumerate(messages)
    ]
