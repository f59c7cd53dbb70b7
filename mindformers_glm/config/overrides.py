"""Values from the command line: `a.b=v` and `--a.b v` become a nested mapping that is laid over the YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_glm.config.legacy import respelt_layer
from mindformers_glm.config.loader import DATASET_TASKS
from mindformers_glm.config.retyped import retyped
from mindformers_glm.errors import ConfigError

_INT = re.compile(r"[-+]?\d+$", re.ASCII)
_DIGITS = 1000  # of a number; longer ones mean nothing and take Python long
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$", re.ASCII)
_LIST = re.compile(r"[\w.+-]+(,[\w.+-]+)+$", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def parse_value(text: str) -> Any:
    """What a word on the command line means: bool, None, int, float, list, JSON, or the text itself.

    `"8"` and `'8'` in quotes are text; `1,2` and `(1, 2)` are lists.
    """
    word = text.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if _INT.match(word):
        return int(word) if len(word) < _DIGITS else text
    if _FLOAT.match(word):
        return float(word)
    if _LIST.match(word):
        return [parse_value(item) for item in word.split(",")]
    if word[:1] == "(" and word[-1:] == ")":
        return [parse_value(item) for item in word[1:-1].split(",") if item.strip()]
    if len(word) > 1 and word[0] == word[-1] == "'":
        return word[1:-1]
    if word[:1] in ("[", "{", '"'):
        return _structure(word)
    return text


class Whole(dict):
    """A mapping written as JSON: it replaces what it is laid over, where dotted keys change single values."""


def parse_overrides(tokens: Sequence[str]) -> dict[str, Any]:
    """Nested mapping of tokens such as `a.b=v`, `--a.b=v`, or `--a.b` followed by `v`. A later token wins.

    Raises:
        ConfigError: a key without a value, a value without a key, or a key below another key's value.
    """
    return nest(read_pairs(tokens))


def read_pairs(tokens: Sequence[str]) -> list[tuple[str, Any]]:
    """(dotted key, value) of each override, see `parse_overrides`."""
    pairs = []
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        dashed = token.startswith("--")
        key, sign, text = token.removeprefix("--").partition("=")
        if not sign and dashed:
            if not waiting or waiting[0].startswith("--"):
                raise ConfigError(token, None, f"Give it a value: {token}=VALUE.")
            text = waiting.pop(0)
        elif not sign:
            raise ConfigError("command line", token, "Write overrides as key=value or --key value.")
        if not all(key.split(".")):
            raise ConfigError("command line", token, "Write the key as section.key, with no empty part.")
        pairs.append((key, parse_value(text)))
    return pairs


def nest(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """[("a.b.c", v), ...] as {a: {b: {c: v}}}. Keys of a linked dataset go to the dataset itself.

    Raises:
        ConfigError: a key lies below the value of an earlier one.
    """
    nested: dict[str, Any] = {}
    for key, value in pairs:
        *above, leaf = _of_dataset(key).split(".")
        place = nested
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(key, value, f"An earlier override gives `{part}` the value {place!r}.")
        place[leaf] = value
    return respelt_layer(nested)


def _of_dataset(key: str) -> str:
    for task, dataset in DATASET_TASKS.items():
        linked = f"{task}.dataset_config"
        if key == linked or key.startswith(f"{linked}."):
            return dataset + key[len(linked) :]
    return key


def apply(values: Mapping[str, Any], change: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """A new mapping: `change` over `values`. A number as key picks an item of a list: `callbacks.1.prefix`.

    Raises:
        ConfigError: a list has no such item, or a key lies below something that is not a mapping.
    """
    result = dict(values)
    for key, value in change.items():
        result[key] = _over(result.get(key), value, f"{place}.{key}".strip("."))
    return retyped(values, change, result)


def _over(below: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping) or isinstance(value, Whole):
        return _plain(value)
    if isinstance(below, list) and value and all(name.isdigit() for name in value):
        items = list(below)
        for name, item in value.items():
            if int(name) >= len(items):
                raise ConfigError(f"{place}.{name}", item, f"`{place}` has {len(items)} items, counted from 0.")
            items[int(name)] = _over(items[int(name)], item, f"{place}.{name}")
        return items
    if below is None or isinstance(below, Mapping):
        return apply(below or {}, value, place)
    leaf = next(iter(value), "")
    raise ConfigError(
        f"{place}.{leaf}", value.get(leaf), f"`{place}` is {below!r} and has no keys below it: set that itself."
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _structure(word: str) -> Any:
    try:
        return json.loads(word, object_hook=Whole)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        pass
    if word[:1] == "[" and word[-1:] == "]" and "[" not in word[1:] and "{" not in word:
        return [_unquoted(item) for item in word[1:-1].split(",") if item.strip()]
    return word


def _unquoted(item: str) -> Any:
    word = item.strip()
    if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"":
        return word[1:-1]
    return parse_value(word)
