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
_FENCE_BEFORE = re.compile(r"\A\s*```[ \t]*\w*[ \t]*\r?\n")
_CALL, _NAMED = "tool_call(", re.compile(r'\{\s*"(name|arguments|parameters)"')
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


class BegunCall:
    """The arguments that are complete in a call that is still being written; each of its characters is read once."""

    def __init__(self) -> None:
        self._body = ""  # of the call, without the fence before it
        self._start: int | None = None  # where the body begins, once it is certain to be a call
        self._place, self._depth, self._quote, self._escaped = 0, 1, "", False
        self._end: int | None = None  # of the last argument that is complete
        self._read: int | None = None  # the end that `_found` was read to
        self._closed, self._found = False, dict[str, Any]()

    def arguments(self, text: str) -> dict[str, Any] | None:
        """The complete arguments in order, the same object while there are no more; None while it is no call yet.

        `text` is all that has been written so far: it begins with the text given before. A call is certain when
        `tool_call(` or the `{` of its arguments is written. An object that may be `{"name": ..., "arguments": ...}` is
        read at its end only.
        """
        if self._start is None and not self._begin(text):
            return None
        self._body = text[self._start : (self._start or 0) + LONGEST]
        self._go_on()
        if self._end is None or self._end == self._read or _NAMED.match(self._body):
            return self._found
        self._read, closing = self._end, ")" if self._body.startswith(_CALL) else "}"
        try:
            self._found = read_arguments(self._body[: self._end] + closing)
        except (ValueError, RecursionError):
            self._found = {}
        return self._found

    def _begin(self, text: str) -> bool:
        fence = _FENCE_BEFORE.match(text)
        rest = text[fence.end() :] if fence else text
        body = rest.lstrip()
        opening = next((one for one in (_CALL, "{") if body.startswith(one)), None)
        if opening is None:
            return False
        self._start, self._place = len(text) - len(body), len(opening)
        return True

    def _go_on(self) -> None:
        """Reads the characters that are new: an argument ends at a comma or bracket of the call, outside strings."""
        while self._place < len(self._body) and not self._closed:
            character = self._body[self._place]
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == self._quote:
                    self._quote = ""
            elif character in "'\"":
                self._quote = character
            elif character in "([{":
                self._depth += 1
            elif character in ")]}":
                self._depth -= 1
                self._closed = self._depth == 0
                self._end = self._place if self._closed else self._end
            elif character == "," and self._depth == 1:
                self._end = self._place
            self._place += 1


def begun_arguments(text: str) -> dict[str, Any] | None:
    """The complete arguments of a call of which `text` is the beginning; see `BegunCall`."""
    return BegunCall().arguments(text)


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
