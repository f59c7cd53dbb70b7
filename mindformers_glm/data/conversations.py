"""Conversations from files, in the forms that people have them: one loader for each, one row kind for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mindformers_glm.data.loaders import FileLoader
from mindformers_glm.data.records import Record
from mindformers_glm.registry import DATA_LOADERS
from mindformers_glm.tokenizers import Message, read_messages

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "observation",
    "tool": "observation",
}


class Conversation(NamedTuple):
    """Messages in order and the line of the file they come from."""

    line: int
    messages: list[Message]


@DATA_LOADERS.register("ToolAlpacaDataLoader", "MessagesDataLoader")
class ConversationDataLoader(FileLoader):
    """`{"conversations": [{"role", "content"}, ...], "tools": [...]}`: ChatGLM3, ToolAlpaca; or `messages`: OpenAI.

    A turn of the role `tool` with `name`, `parameters` and `observation` is a call and its result. `loss` (or
    `weight`) of a message says whether it is learned.
    """

    def convert(self, record: Record) -> Conversation:
        """The conversation of a record."""
        value = _mapping(record.value)
        turns = value.get("conversations", value.get("messages"))
        if not isinstance(turns, list) or not turns:
            raise ValueError(f"no list of `conversations` or `messages` among {', '.join(map(str, value))}")
        system = value.get("system") or None
        return _checked(record.line, read_messages(turns, system=system, tools=_tools(value.get("tools"))))


@DATA_LOADERS.register()
class ShareGPTDataLoader(FileLoader):
    """`{"conversations": [{"from": "human" | "gpt" | ..., "value": ...}], "system": ..., "tools": ...}`.

    `function_call` turns hold JSON with `name` and `arguments`. A reply before the first question is left out, as
    FastChat does.
    """

    def convert(self, record: Record) -> Conversation:
        """The conversation of a record."""
        value = _mapping(record.value)
        turns = value.get("conversations")
        if not isinstance(turns, list) or not turns:
            raise ValueError(f"no list of `conversations` among {', '.join(map(str, value))}")
        history = [_sharegpt_turn(turn) for turn in turns]
        while history and history[0]["role"] == "assistant":
            history.pop(0)
        system = value.get("system") or None
        return _checked(record.line, read_messages(history, system=system, tools=_tools(value.get("tools"))))


@DATA_LOADERS.register("AlpacaInstructDataLoader")
class AlpacaDataLoader(FileLoader):
    """`{"instruction", "input", "output", "system", "history": [[question, reply], ...]}`."""

    def convert(self, record: Record) -> Conversation:
        """The conversation of a record: past rounds, then instruction and input, then the output."""
        value = _mapping(record.value)
        if not isinstance(value.get("instruction"), str) or not isinstance(value.get("output"), str):
            raise ValueError(f"needs text under `instruction` and `output`, has {', '.join(map(str, value))}")
        if not value["output"].strip():
            raise ValueError("`output` is blank")
        query = "\n".join(part for part in (value["instruction"], value.get("input") or "") if part)
        history = [*(value.get("history") or []), (query, value["output"])]
        return _checked(record.line, read_messages(history, system=value.get("system") or None))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"not an object but {type(value).__name__}")
    return value


def _tools(tools: Any) -> Any:
    """Descriptions of tools; some files keep them as JSON in a string."""
    if not isinstance(tools, str):
        return tools or None
    if not tools.strip():
        return None
    return json.loads(tools, strict=False) or None


def _sharegpt_turn(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise ValueError("every turn needs `from` and a text under `value`")
    if turn.get("from") == "function_call":
        call = json.loads(turn["value"], strict=False)
        return {"role": "assistant", "tool_calls": [{"function": call}], "loss": turn.get("loss")}
    role = _SHAREGPT_ROLES.get(turn.get("from"))
    if role is None:
        raise ValueError(f"unknown speaker {turn.get('from')!r}; known: {', '.join(_SHAREGPT_ROLES)}, function_call")
    return {"role": role, "content": turn["value"], "loss": turn.get("loss")}


def _checked(line: int, messages: list[Message]) -> Conversation:
    if not any(message.role == "assistant" for message in messages):
        raise ValueError("no reply of the assistant, nothing to learn")
    return Conversation(line, messages)
