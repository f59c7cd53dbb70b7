"""Arguments of a tool call, read from what a model wrote without running any of it."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

LONGEST = 65536  # characters of a call that are looked at
_DEEPEST = 50  # nested brackets; Python's own parser gives up near 200
_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\r?\n?(.*?)(?:```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[^\W\d]\w*(\Z|\s*\()")  # a function's name, and its bracket where one has come
_JSON_WORDS = {"true": True, "false": False, "null": None}


def read_arguments(text: str) -> dict[str, Any]:
    """Arguments of a call written as `tool_call(city='Beijing')` or as a JSON object, in a code block or bare.

    A JSON object may be the arguments, or `{"name": ..., "arguments": {...}}`. Values are JSON values: literals
    only, no names, no arithmetic, no calls.

    Raises:
        ValueError: the text is none of these; the message says why.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a call of {len(text)} characters is too long")
    fenced = _FENCE.search(text)
    body = (fenced.group(1) if fenced else text).strip()
    if _depth(body) > _DEEPEST:
        raise ValueError("brackets are nested too deeply")
    return _from_json(body) if body.startswith("{") else _from_python(body)


def may_be_call(text: str) -> bool:
    """Whether a text that is still being written can become a call: a code block, a JSON object or `name(`.

    Answers no as soon as something else stands there, or anything follows the closing fence of the block.
    """
    body = text.strip()
    if len(text) > LONGEST:
        return False
    if not body or body[0] == "{" or "```".startswith(body):
        return True
    if body.startswith("```"):
        return not body.partition("```")[2].partition("```")[2].strip("` \t\r\n")
    return _OPENING.match(body) is not None


def is_official_call(text: str) -> bool:
    """Whether a text opens a call as ChatGLM3 was trained to write it: `tool_call(`, in a code block or bare."""
    fenced = _FENCE.search(text)
    return (fenced.group(1) if fenced else text).strip().startswith("tool_call(")


def begun_arguments(text: str) -> dict[str, Any] | None:
    """The arguments that are complete in a call that is still being written, in order; None while it is no call yet.

    A call is certain when `tool_call(` or the `{` of its arguments is written. An object that may be `{"name": ...,
    "arguments": ...}` is read at its end only.
    """
    body = re.sub(r"\A\s*```[ \t]*\w*[ \t]*\r?\n", "", text).lstrip()
    if body.startswith("tool_call("):
        opening, closing, depth = "tool_call(", ")", 1
    elif body.startswith("{"):
        opening, closing, depth = "{", "}", 1
    else:
        return None
    end = _last_comma(body, len(opening), depth)
    if end is None or re.match(r'\{\s*"(name|arguments|parameters)"', body):
        return {}
    try:
        return read_arguments(body[:end] + closing)
    except (ValueError, RecursionError):
        return {}


def _last_comma(body: str, start: int, depth: int) -> int | None:
    """Where the last argument that is complete ends: at a comma or bracket of the call itself, outside strings."""
    quote, escaped, last = "", False, None
    for place in range(start, min(len(body), LONGEST)):
        character = body[place]
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return place
        elif character == "," and depth == 1:
            last = place
    return last


def _from_json(body: str) -> dict[str, Any]:
    value = json.loads(body, strict=False, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("arguments are no object")
    inner = value.get("arguments", value.get("parameters")) if isinstance(value.get("name"), str) else None
    if isinstance(inner, str):
        inner = json.loads(inner, strict=False, parse_constant=_no_constant)
    return inner if isinstance(inner, dict) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _from_python(body: str) -> dict[str, Any]:
    try:
        tree = ast.parse(body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a call ({type(error).__name__})") from error
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr) or not isinstance(tree.body[0].value, ast.Call):
        raise ValueError("expected one call")
    call = tree.body[0].value
    if not isinstance(call.func, ast.Name):
        raise ValueError("expected a plain function name")
    arguments: dict[str, Any] = {}
    for positional in call.args:
        value = _literal(positional)
        if not isinstance(value, dict) or len(call.args) > 1:
            raise ValueError("arguments need names")
        arguments.update(value)
    for item in call.keywords:
        value = _literal(item.value)
        if item.arg is not None:
            arguments[item.arg] = value
        elif isinstance(value, dict):
            arguments.update(value)
        else:
            raise ValueError("** needs a dictionary")
    return arguments


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (str, int, float))):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise ValueError("a number is too large")
        return node.value
    if isinstance(node, ast.Name) and node.id in _JSON_WORDS:
        return _JSON_WORDS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _literal(key) for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return {key: _literal(value) for key, value in zip(keys, node.values, strict=True)}
    raise ValueError(f"a value is not a literal ({type(node).__name__})")


def _depth(body: str) -> int:
    """Deepest nesting of brackets, those inside strings counted too: a bound is enough."""
    depth = deepest = 0
    for character in body:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(depth - 1, 0)
    return deepest
