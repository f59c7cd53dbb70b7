"""What a chat format is, and what all of them share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mindformers_glm.errors import GenerationError, kind_of
from mindformers_glm.tokenizers.messages import Message, call_body


class Rendered(NamedTuple):
    """`labels[i]` is the token to predict at position i, or -100; both lists are equally long."""

    ids: list[int]
    labels: list[int]


class Signs(NamedTuple):
    """What lies beside a tokenizer: its chat template, the names of the model in lower case, config.json."""

    byte_pairs: bool
    template: str
    name: str
    config: Mapping[str, Any]


class ChatFormat(ABC):
    """Messages -> ids by the rules of one kind of model. Subclasses say the rules.

    - `has_roles`: replies come back as messages with `metadata`, not as pairs (query, reply);
    - `opens_with_line`: a reply begins with a line that names a tool or is empty;
    - `thinks`: a reply begins inside a thought, which `</think>` ends;
    - `code_tools`: tools whose calls are code as it stands, and no arguments.
    """

    has_roles = False
    opens_with_line = False
    thinks = False
    code_tools: tuple[str, ...] = ("interpreter",)

    def __init__(self, tokenizer: Any, *, tools_indent: int | None = 4) -> None:
        self.tokenizer, self.indent = tokenizer, tools_indent

    def check(self, messages: list[Message]) -> None:  # noqa: B027 - most formats know every form
        """Raises GenerationError when a conversation has a form that this model does not know."""

    @abstractmethod
    def prompt(self, messages: list[Message]) -> list[int]:
        """Ids that wait for the assistant's reply."""

    @abstractmethod
    def said(self, messages: list[Message]) -> list[int]:
        """Ids that end with the last message, whoever said it."""

    @abstractmethod
    def example(self, messages: list[Message], learned: Sequence[bool]) -> Rendered:
        """Ids and labels of a whole conversation; `learned` says which messages are."""

    def text(self, ids: list[int]) -> str:
        """The text that stands for ids, special tokens by name where the model's own code prints them."""
        return self.tokenizer.decode(ids)

    @classmethod
    def is_told(cls, signs: Signs) -> bool:
        """Whether these files are those of a model with this format; False where only the tokenizer's class tells."""
        return False

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids after which a reply is over."""
        return (self.tokenizer.eos_token_id,)

    def ends(self) -> dict[int, str]:
        """Ids that end a reply -> why."""
        return {self.tokenizer.eos_token_id: "eos"}

    def call_text(self, name: str, arguments: Any) -> str:
        """What the assistant writes below the line that names the tool."""
        return call_body(name, arguments)

    def body(self, message: Message) -> str:
        """The content of a message; a call whose arguments are known is written in this format."""
        return message.content if message.arguments is None else self.call_text(message.metadata, message.arguments)

    def printed(self, value: Any, indent: int | None) -> str:
        """JSON of a description.

        Raises:
            GenerationError: it is none.
        """
        try:
            return json.dumps(value, indent=indent, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise GenerationError(f"tools: not JSON ({error})") from error


def functions(tools: Any) -> list[Mapping[str, Any]]:
    """The functions of a description of tools in any of the usual forms.

    Raises:
        GenerationError: a tool has no name.
    """
    if isinstance(tools, Mapping):
        tools = [tools] if isinstance(tools.get("name"), str) else list(tools.values())
    if not isinstance(tools, (list, tuple)):
        raise GenerationError(f"tools: expected a list of descriptions, not {kind_of(tools)}")
    found = [tool.get("function", tool) if isinstance(tool, Mapping) else tool for tool in tools]
    for function in found:
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise GenerationError("tools: every description needs a name")
    return found
