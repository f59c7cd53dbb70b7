"""Fields of a JSON body: each is read, refused by name, or unknown. null is the same as absent, as with OpenAI."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mindformers_glm.serving.http.errors import ApiError, refused, wrong

T = TypeVar("T")
_DEEPEST = 64  # nested brackets of a body


def parse(raw: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        ApiError: it is not UTF-8, not JSON, holds NaN or Infinity, is nested too deeply, or is no object.
    """
    try:
        text = raw.decode("utf-8")
        if text.count("[") + text.count("{") > _DEEPEST and _depth(text) > _DEEPEST:
            raise ValueError(f"brackets are nested more than {_DEEPEST} deep")
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"The body must be a JSON object, not {_kind(value)}", code="invalid_json")
    return value


class Body:
    """Takes fields out of an object one by one; `finish` finds what nobody took."""

    def __init__(self, data: Any, where: str = "") -> None:
        if not isinstance(data, Mapping):
            raise ApiError(400, f"{where or 'body'}: expected an object, not {_kind(data)}", param=where or None)
        self._left, self._where = dict(data), f"{where}." if where else ""

    def name(self, field: str) -> str:
        """The path of a field, for messages."""
        return self._where + field

    def take(self, field: str, read: Callable[[Any], T], default: Any = None) -> T | Any:
        """The field as `read` gives it, `default` where it is absent or null.

        Raises:
            ApiError: `read` raises ValueError.
        """
        value = self._left.pop(field, None)
        if value is None:
            return default
        try:
            return read(value)
        except ValueError as error:
            raise wrong(self.name(field), value, str(error)) from error

    def need(self, field: str, read: Callable[[Any], T]) -> T:
        """As `take`, of a field that must be there."""
        value = self.take(field, read)
        if value is None:
            raise ApiError(
                400, f"{self.name(field)}: missing", param=self.name(field), code="missing_required_parameter"
            )
        return value

    def refuse(self, field: str, reason: str, *neutral: Any) -> None:
        """Refuses a field by name unless it is absent, null, or one of the values that ask for nothing."""
        value = self._left.pop(field, None)
        if value is not None and not any(value == item and type(value) is type(item) for item in neutral):
            raise refused(self.name(field), reason)

    def finish(self) -> None:
        """Passes when every field was taken; one that nobody knows and that is null or false asks for nothing."""
        for field, value in self._left.items():
            if value is not None and value is not False:
                name = self.name(field)[:200]
                raise ApiError(400, f"{name}: no such field here", param=name, code="unknown_parameter")


# --- readers: each raises ValueError with what would be right ------------------------------------------------------


def whole(least: int, most: int = 2**63 - 1) -> Callable[[Any], int]:
    """Whole numbers of a range."""

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"Give a whole number from {least}" + ("." if most > 2**62 else f" to {most}."))
        return value

    return read


def number(least: float, most: float, *, above: bool = False) -> Callable[[Any], float]:
    """Finite numbers of a range, its lower end left out with `above`."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e30:
            raise ValueError(f"Give a number from {least:g} to {most:g}.")
        if not math.isfinite(value) or not least <= value <= most or (above and value == least):
            raise ValueError(f"Give a number {'above' if above else 'from'} {least:g} to {most:g}.")
        return float(value)

    return read


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("Give true or false.")
    return value


def text(value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise ValueError("Give text.")
    return value


def one_of(*names: str) -> Callable[[Any], str]:
    """One of several words."""

    def read(value: Any) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(f"Give {' or '.join(repr(name) for name in names)}.")
        return value

    return read


def texts(most: int, longest: int) -> Callable[[Any], list[str]]:
    """One text or up to `most`, none empty."""

    def read(value: Any) -> list[str]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or len(items) > most or not all(isinstance(item, str) for item in items):
            raise ValueError(f"Give a text, or a list of at most {most}.")
        if any(not item or len(item) > longest for item in items):
            raise ValueError(f"Each text has from 1 to {longest} characters.")
        return items

    return read


def ids(size: int, most: int = 2**31) -> Callable[[Any], list[int]]:
    """Token ids below `size`."""

    def read(value: Any) -> list[int]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError("Give a list of token ids." if most > 2**30 else f"Give a list of at most {most} ids.")
        if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < size for item in value):
            raise ValueError(f"Each id is a whole number from 0 to {size - 1}.")
        return value

    return read


def mapping(value: Any) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise ValueError("Give an object.")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _depth(source: str) -> int:
    depth = deepest = 0
    for character in source:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest
