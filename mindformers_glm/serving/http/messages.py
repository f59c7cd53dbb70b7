"""Messages and tools of a chat as OpenAI's clients write them, checked and brought into the renderer's form."""

from __future__ import annotations

import json
import re
from typing import Any

from mindformers_glm.serving.http.body import Body, flag, mapping, one_of, text
from mindformers_glm.serving.http.errors import ApiError, refused, wrong

_ROLES = ("system", "developer", "user", "assistant", "tool")
_TOOL_NAME = re.compile(r"[\w.\-]{1,64}")
_MOST_TOOLS = 128


def read_chat(value: Any, most: int) -> list[dict[str, Any]]:
    """Messages with `role`, `content` and where there are some `tool_calls` or `tool_call_id`, and nothing else.

    Raises:
        ApiError: no messages, too many, or one that this server does not understand, by its place.
    """
    if not isinstance(value, list) or not value:
        raise wrong("messages", value, "Give a list with at least one message.")
    if len(value) > most:
        raise ApiError(
            400, f"messages: {len(value)} are too many, at most {most}", param="messages", code="too_many_messages"
        )
    messages: list[dict[str, Any]] = []
    known: set[str] = set()
    for place, item in enumerate(value):
        message = _message(Body(item, f"messages.{place}"))
        for call in message.get("tool_calls", ()):
            known.add(call["id"])
        answered = message.get("tool_call_id")
        if answered is not None and answered not in known:
            param = f"messages.{place}.tool_call_id"
            raise wrong(param, answered, "No message before it makes a call of this id.")
        messages.append(message)
    return messages


def read_tools(body: Body) -> list[dict[str, Any]] | None:
    """The functions of `tools`, None where there are none.

    Raises:
        ApiError: a tool that is no function, two of one name, or too many.
    """
    tools = body.take("tools", _tool_list)
    if not tools:
        return None
    functions: list[dict[str, Any]] = []
    for place, item in enumerate(tools):
        where = f"tools.{place}"
        tool = Body(item, where)
        tool.need("type", one_of("function"))
        function = tool.need("function", mapping)
        tool.finish()
        inner = Body(function, f"{where}.function")
        name = inner.need("name", _name)
        told: dict[str, Any] = {"name": name}
        description = inner.take("description", text)
        if description is not None:
            told["description"] = description
        told["parameters"] = inner.take("parameters", mapping, {"type": "object", "properties": {}})
        inner.take("strict", flag)
        inner.finish()
        if any(other["name"] == name for other in functions):
            raise wrong(f"{where}.function.name", name, "Another tool has this name.")
        functions.append(told)
    return functions


def _message(body: Body) -> dict[str, Any]:
    role = body.need("role", one_of(*_ROLES))
    if role == "tool":
        content = body.need("content", _content(body.name("content")))
        message = {"role": "tool", "content": content, "tool_call_id": body.take("tool_call_id", text)}
        body.take("name", text)
    elif role == "assistant":
        message = {"role": "assistant", "content": body.take("content", _content(body.name("content")), "")}
        calls = body.take("tool_calls", _calls(body.name("tool_calls")))
        if calls:
            message["tool_calls"] = calls
        for thought in ("reasoning_content", "reasoning"):  # thoughts are no part of what was said before
            body.take(thought, text)
        body.refuse("refusal", "a refusal is told as content here")
        body.refuse("audio", "this model knows text alone")
        body.refuse("function_call", "the old form of tools; use tool_calls")
        body.refuse("annotations", "not here", [])
        body.refuse("name", "this model's chat has no place for names of speakers")
    else:
        content = body.need("content", _content(body.name("content")))
        message = {"role": "system" if role == "developer" else role, "content": content}
        body.refuse("name", "this model's chat has no place for names of speakers")
    body.finish()
    return {key: value for key, value in message.items() if value is not None}


def _content(where: str) -> Any:
    def read(value: Any) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise ValueError("Give text, or a list of text parts.")
        pieces = []
        for place, item in enumerate(value):
            part = Body(item, f"{where}.{place}")
            kind = part.need("type", text)
            if kind not in ("text", "refusal"):
                raise refused(f"{where}.{place}.type", f"{kind[:40]!r} is not understood: this model knows text alone")
            pieces.append(part.need(kind, text))
            part.take("cache_control", mapping)
            part.finish()
        return "".join(pieces)

    return read


def _calls(where: str) -> Any:
    def read(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or len(value) > _MOST_TOOLS:
            raise ValueError("Give a list of calls.")
        calls = []
        for place, item in enumerate(value):
            call = Body(item, f"{where}.{place}")
            identity = call.need("id", text)
            call.take("type", one_of("function"))
            call.take("index", lambda index: index)
            function = Body(call.need("function", mapping), f"{where}.{place}.function")
            call.finish()
            name = function.need("name", _name)
            arguments = function.need("arguments", _arguments)
            function.finish()
            calls.append({"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}})
        return calls

    return read


def _arguments(value: Any) -> str:
    try:
        read = json.loads(value or "{}") if isinstance(value, str) else None
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise ValueError("Give the text of a JSON object.")
    return value or "{}"


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _TOOL_NAME.fullmatch(value):
        raise ValueError("A name has 1 to 64 letters, digits, _, - or .")
    return value


def _tool_list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST_TOOLS:
        raise ValueError(f"Give a list of at most {_MOST_TOOLS} tools.")
    return value
