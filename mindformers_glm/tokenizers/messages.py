"""One form for conversations: messages from pairs, GLM3 messages, tool-training turns and OpenAI messages."""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mindformers_glm.errors import GenerationError

ROLES = ("system", "user", "assistant", "observation")
TOOLS_INTRODUCTION = (
    "Answer the following questions as best as you can. You have access to the following tools:"  # ChatGLM3, README
)
_RESULTS = ("tool", "function", "observation")


@dataclass(frozen=True)
class Message:
    """What one role says. `metadata` of an assistant message is the tool that it calls."""

    role: str
    content: str = ""
    metadata: str = ""
    tools: Any = None  # of a system message: what may be called, any JSON
    loss: bool | None = None  # of an assistant message: whether training learns it; None leaves it to the policy


def read_messages(
    history: Iterable[Any],
    query: str | None = None,
    *,
    role: str = "user",
    system: str | None = None,
    tools: Any = None,
) -> list[Message]:
    """Messages in order, from any mixture of Message, (query, reply) pairs and mappings.

    A mapping has `role` and `content`; assistants may have `metadata`, `tool_calls` or `function_call`; the role
    `tool` is a result (`content`) or a whole training turn (`name`, `parameters`, `observation`). Results follow
    their call where a message makes several. `query` is added last, `system` and `tools` first.

    Raises:
        GenerationError: an unknown role, a content that is not text, or a call without a name.
    """
    given = [message for item in history for message in _read(item)]
    if query is not None:
        given += _read({"role": role, "content": query})
    messages = _paired(given)
    return _with_tools(_with_system(messages, system), tools)


def call_text(parameters: Any) -> str:
    """Python source of a call, as ChatGLM3 writes it: ```python, tool_call(name=value, ...), ```.

    Raises:
        GenerationError: the parameters are not an object.
    """
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters or "{}", strict=False)
        except ValueError as error:
            raise GenerationError(f"tool call: arguments are not JSON ({error})") from error
    if not isinstance(parameters, Mapping):
        raise GenerationError(f"tool call: arguments must be an object, not {type(parameters).__name__}")
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in parameters):
        inside = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    else:
        inside = f"**{dict(parameters)!r}"
    return f"```python\ntool_call({inside})\n```"


def tool_names(tools: Any) -> set[str]:
    """Names that a tool description in any of the usual forms defines."""
    if isinstance(tools, Mapping):
        return {str(tools["name"])} if isinstance(tools.get("name"), str) else set(map(str, tools))
    plain = [_unwrapped(tool) for tool in tools or []]
    return {str(tool["name"]) for tool in plain if isinstance(tool, Mapping) and "name" in tool}


@dataclass(frozen=True)
class _Call(Message):
    """An assistant message that waits for its result."""

    identity: str | None = None


@dataclass(frozen=True)
class _Result(Message):
    """An observation that may name the call it answers."""

    identity: str | None = None


def _read(item: Any) -> list[Message]:
    if isinstance(item, Message):
        return [item]
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
        query, reply = item
        return [Message("user", _text(query)), Message("assistant", _text(reply))]
    if not isinstance(item, Mapping) or not isinstance(item.get("role"), str):
        raise GenerationError("history: every item is a pair (query, reply) or a message with role and content")
    role = item["role"]
    if role == "tool" and "parameters" in item:
        return _training_turn(item)
    if role in _RESULTS:
        return [_Result("observation", _text(item.get("content")), identity=item.get("tool_call_id"))]
    if role == "developer":
        role = "system"
    if role not in ROLES:
        raise GenerationError(f"role: got {role!r}. Use one of {', '.join(ROLES)} or tool")
    if role == "assistant":
        return _assistant(item)
    tools = item.get("tools") if role == "system" else None
    return [Message(role, _text(item.get("content")), _line(item.get("metadata")), tools, _loss(item))]


def _assistant(item: Mapping[str, Any]) -> list[Message]:
    calls = list(item.get("tool_calls") or [])
    if item.get("function_call"):
        calls.append({"function": item["function_call"]})
    said = _text(item.get("content"))
    plain = [Message("assistant", said, _line(item.get("metadata")), None, _loss(item))]
    if not calls:
        return plain
    messages: list[Message] = plain if said.strip() else []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise GenerationError("tool_calls: every call needs function.name and function.arguments")
        body = call_text(function.get("arguments") or {})
        messages.append(_Call("assistant", body, _line(function["name"]), None, _loss(item), call.get("id")))
    return messages


def _loss(item: Mapping[str, Any]) -> bool | None:
    """Whether the message says that it is learned: `loss` of ChatGLM3 data, `weight` of OpenAI's."""
    given = item.get("loss", item.get("weight"))
    return None if given is None else bool(given)


def _training_turn(item: Mapping[str, Any]) -> list[Message]:
    observation = item.get("observation", "")
    said = observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False)
    name, loss = _line(item.get("name")), _loss(item)
    if not name:
        raise GenerationError("role tool: a call needs a name")
    return [Message("assistant", call_text(item["parameters"]), name, None, loss), Message("observation", said)]


def _paired(given: list[Message]) -> list[Message]:
    """The messages with each result after its own call: call, result, call, result."""
    messages: list[Message] = []
    waiting: list[_Call] = []
    for message in given:
        if isinstance(message, _Call):
            waiting.append(message)
            continue
        if isinstance(message, _Result) and waiting:
            named = [call for call in waiting if call.identity is not None and call.identity == message.identity]
            answered = (named or waiting)[0]
            waiting.remove(answered)
            messages += [answered, message]
            continue
        messages += waiting
        waiting = []
        messages.append(message)
    return [Message(m.role, m.content, m.metadata, m.tools, m.loss) for m in messages + waiting]


def _with_system(messages: list[Message], system: str | None) -> list[Message]:
    return messages if system is None else [Message("system", system), *messages]


def _with_tools(messages: list[Message], tools: Any) -> list[Message]:
    if not tools:
        return messages
    plain = tools if isinstance(tools, (Mapping, str)) else [_unwrapped(tool) for tool in tools]
    if messages and messages[0].role == "system" and not messages[0].tools:
        return [replace(messages[0], tools=plain), *messages[1:]]
    return [Message("system", TOOLS_INTRODUCTION, tools=plain), *messages]


def _unwrapped(tool: Any) -> Any:
    """OpenAI wraps a description as {"type": "function", "function": {...}}."""
    return tool["function"] if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping) else tool


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
    raise GenerationError(f"content: expected text, got {type(content).__name__}; images and sound are not understood")


def _line(metadata: Any) -> str:
    if metadata is None:
        return ""
    if not isinstance(metadata, str) or "\n" in metadata:
        raise GenerationError(f"metadata: got {metadata!r}. It is the name of a tool, one line")
    return metadata
