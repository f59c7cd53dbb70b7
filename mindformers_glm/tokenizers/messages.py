"""One form for conversations: messages from pairs, GLM3 messages, tool-training turns and OpenAI messages."""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mindformers_glm.errors import GenerationError, kind_of, shorten

ROLES = ("system", "user", "assistant", "observation")
TOOLS_INTRODUCTION = (
    "Answer the following questions as best as you can. You have access to the following tools:"  # ChatGLM3, README
)
INTERPRETER = "interpreter"  # the tool whose calls are code, as it stands, and no arguments
_RESULTS = ("tool", "function", "observation")
_ROUND_FORM = "every item must be a pair (query, reply) or a message with role and content"


class _Null:
    """`"tools": null` of a message: the official code prints it; a message without the key prints nothing."""

    def __repr__(self) -> str:
        return "null"


NULL = _Null()
NO_TOOLS: tuple[Any, ...] = (None, NULL, [], {}, "", ())
_ABSENT = object()


@dataclass(frozen=True)
class Message:
    """What one role says. `metadata` of an assistant message is the tool that it calls."""

    role: str
    content: str = ""
    metadata: str = ""
    tools: Any = None  # of a system message: what may be called, any JSON; None where there is no such key
    loss: bool | None = None  # of an assistant message: whether training learns it; None leaves it to the policy
    arguments: Any = field(default=None, compare=False)  # of a call: what `content` says, for formats of other words
    reasoning: str = ""  # of an assistant message: the thought before it, for formats that have one


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
    their call where a message makes several. `query` is added last, `system` and `tools` first: `tools=[]` is written
    as a list without entries, as the official code does, None is not written.

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
        raise GenerationError(f"tool call: arguments must be an object, not {kind_of(parameters)}")
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in parameters):
        inside = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    else:
        inside = f"**{dict(parameters)!r}"
    return f"```python\ntool_call({inside})\n```"


def call_body(name: str, parameters: Any) -> str:
    """What the assistant writes below the line that names the tool: a call, or the code of the interpreter.

    Code in a block stays as it is; bare code gets the block that the official model writes.

    Raises:
        GenerationError: the parameters are not an object.
    """
    code = _code(parameters) if name == INTERPRETER else None
    if code is None:
        return call_text(parameters)
    return code if "```" in code else f"```python\n{code}\n```"


def said_with_calls(
    content: str, calls: Iterable[Any], call_text: Callable[[str, Any], str] = call_body, *, reasoning: str = ""
) -> dict[str, Any]:
    """The message of an assistant that said `content` and made `calls` (each with name, arguments, text).

    Where the model wrote a call in another form than `call_text` (that of its chat format), the message carries the
    model's text (`written`), so that the next prompt, and training on a saved chat, have the call as it was made. A
    thought stands apart (`reasoning_content`, as servers name it): it is no part of the next prompt.
    """
    made = []
    for call in calls:
        function = {"name": call.name, "arguments": call.arguments}
        made.append({"type": "function", "function": function})
        if call.text and call.text != call_text(call.name, call.arguments):
            made[-1]["written"] = call.text
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    return {**message, "tool_calls": made} if made else message


def tool_names(tools: Any) -> set[str]:
    """Names that a tool description in any of the usual forms defines; none in what is no description."""
    if isinstance(tools, Mapping):
        return {str(tools["name"])} if isinstance(tools.get("name"), str) else set(map(str, tools))
    plain = [_unwrapped(tool) for tool in tools] if isinstance(tools, (list, tuple)) else []
    return {str(tool["name"]) for tool in plain if isinstance(tool, Mapping) and "name" in tool}


def offered_tools(messages: Iterable[Message]) -> set[str]:
    """Names of the tools that the system messages of a conversation offer."""
    return {name for message in messages if message.role == "system" for name in tool_names(message.tools)}


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
        raise GenerationError(f"history: {_ROUND_FORM}, not {shorten(item, 60)}")
    role = item["role"]
    if role == "tool" and (item.get("parameters") is not None or item.get("observation") is not None):
        return _training_turn(item)
    if role in _RESULTS:
        metadata = _line(item.get("metadata")) if role == "observation" else ""
        return [_Result("observation", _text(item.get("content")), metadata, identity=item.get("tool_call_id"))]
    if role == "developer":
        role = "system"
    if role not in ROLES:
        raise GenerationError(f"role: got {role!r}. Use one of {', '.join(ROLES)} or tool")
    if role == "assistant":
        return _assistant(item)
    tools = item.get("tools", _ABSENT) if role == "system" else _ABSENT
    tools = None if tools is _ABSENT else NULL if tools is None else tools
    return [Message(role, _text(item.get("content")), _line(item.get("metadata")), tools, _loss(item))]


def _assistant(item: Mapping[str, Any]) -> list[Message]:
    calls = list(item.get("tool_calls") or [])
    if item.get("function_call"):
        calls.append({"function": item["function_call"]})
    said = _text(item.get("content"))
    thought = _text(item.get("reasoning_content"))
    plain = [Message("assistant", said, _line(item.get("metadata")), None, _loss(item), reasoning=thought)]
    if not calls:
        return plain
    messages: list[Message] = plain if said.strip() else []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise GenerationError("tool_calls: every call needs function.name and function.arguments")
        written = call.get("written")
        name, arguments = function["name"], function.get("arguments") or {}
        if isinstance(written, str) and written.strip():
            body, arguments = written, None
        else:
            body = call_body(name, arguments)
        messages.append(_Call("assistant", body, _line(name), None, _loss(item), arguments, identity=call.get("id")))
    return messages


def _loss(item: Mapping[str, Any]) -> bool | None:
    """Whether the message says that it is learned: `loss` of ChatGLM3 data, `weight` of OpenAI's."""
    stated = (item.get(key) for key in ("loss", "weight"))
    given = next((value for value in stated if value is not None), None)
    return None if given is None else bool(given)


def _code(parameters: Any) -> str | None:
    """The code of an interpreter's call: text under `code`, alone; None for arguments of another form."""
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters, strict=False)
        except ValueError:
            return parameters if parameters.strip() else None  # bare code where arguments stand
    code = parameters.get("code") if isinstance(parameters, Mapping) and len(parameters) == 1 else None
    return code if isinstance(code, str) else None


def _training_turn(item: Mapping[str, Any]) -> list[Message]:
    observation = item.get("observation")
    observation = "" if observation is None else observation
    said = observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False)
    name, loss = _line(item.get("name")), _loss(item)
    if not name:
        raise GenerationError("role tool: a call needs a name")
    arguments = item.get("parameters") or {}
    body = call_body(name, arguments)
    return [Message("assistant", body, name, None, loss, arguments), Message("observation", said)]


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
    return [
        Message(m.role, m.content, m.metadata, m.tools, m.loss, m.arguments, m.reasoning) for m in messages + waiting
    ]


def _with_system(messages: list[Message], system: str | None) -> list[Message]:
    return messages if system is None else [Message("system", system), *messages]


def _with_tools(messages: list[Message], tools: Any) -> list[Message]:
    if tools is None:
        return messages
    plain = [_unwrapped(tool) for tool in tools] if isinstance(tools, (list, tuple)) else tools
    if messages and messages[0].role == "system" and messages[0].tools in (None, NULL):
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
    if isinstance(content, Sequence) and not isinstance(content, (bytes, bytearray)):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    raise GenerationError(
        f"content: expected text, got {kind_of(content)} {shorten(content, 60)}; images and sound are not "
        "understood. A conversation is given as history=[{'role': ..., 'content': ...}, ...]"
    )


def _line(metadata: Any) -> str:
    if metadata is None:
        return ""
    if not isinstance(metadata, str) or "\n" in metadata:
        raise GenerationError(f"metadata: got {metadata!r}. It is the name of a tool, one line")
    return metadata
