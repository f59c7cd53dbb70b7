"""What a tokenizer call returns, and the padding and truncation of rows of ids."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np

from mindformers_glm.errors import ConfigError, kind_of
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import log_once

Side = Literal["left", "right"]
_PADDINGS = {
    True: "longest",
    False: "do_not_pad",
    "longest": "longest",
    "max_length": "max_length",
    "do_not_pad": "do_not_pad",
}
_FILL = {"attention_mask": 0, "position_ids": 0, "labels": IGNORED}


class Encoding(dict):
    """`input_ids`, `attention_mask` and, where asked, `position_ids`; also readable as attributes.

    `to(device)` of published snippets gives the encoding itself: a network takes the ids to its device.
    """

    def to(self, *device: Any, **options: Any) -> Encoding:
        """The encoding itself, wherever it is sent."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


def is_ids(value: Any) -> bool:
    """True for a row of ids: a list or array that holds whole numbers and nothing else, at least one."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return isinstance(value, (list, tuple, range)) and len(value) > 0 and all(map(_is_id, value))


def as_rows(ids: Any) -> list[int] | list[list[int]]:
    """One row of ids, or several: from a number, a list, an array or tensor, or anything that gives such.

    Raises:
        ConfigError: something in it is no whole number; it is named.
    """
    given = ids.tolist() if hasattr(ids, "tolist") else ids
    if _is_id(given):
        return [int(given)]
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise _no_ids(ids)
    items = [item.tolist() if hasattr(item, "tolist") else item for item in given]
    if items and not _is_id(items[0]) and isinstance(items[0], Iterable):
        rows: list[Any] = [as_rows(item) for item in items]
        return rows
    for item in items:
        if not _is_id(item):
            raise _no_ids(item)
    return [int(item) for item in items]


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral)


def _no_ids(value: Any) -> ConfigError:
    kind = kind_of(value)
    return ConfigError("token_ids", value, f"Expected ids (whole numbers) or rows of them, not text or {kind}.")


def fit(
    first: Sequence[int],
    second: Sequence[int] | None,
    *,
    room: int,
    side: Side = "right",
    strategy: str = "longest_first",
) -> tuple[list[int], list[int] | None]:
    """Both texts cut to `room` ids together, by the strategy names that Hugging Face tokenizers use.

    Raises:
        ConfigError: the strategy is unknown, or cutting the named text alone cannot make room.
    """
    first, second = list(first), None if second is None else list(second)
    surplus = len(first) + len(second or ()) - room
    if surplus <= 0:
        return first, second
    if strategy == "longest_first":
        keep_first, keep_second = _shares(len(first), len(second or ()), room)
    elif strategy == "only_first":
        keep_first, keep_second = len(first) - surplus, len(second or ())
    elif strategy == "only_second":
        keep_first, keep_second = len(first), len(second or ()) - surplus
    else:
        known = "longest_first, only_first, only_second, do_not_truncate, True or False"
        raise ConfigError("truncation", strategy, f"Use one of {known}.")
    if min(keep_first, keep_second) < 0:
        raise ConfigError("truncation", strategy, f"This text alone is too short to give up {surplus} tokens.")
    return cut(first, keep_first, side), None if second is None else cut(second, keep_second, side)


def cut(ids: Sequence[int], keep: int, side: Side = "right") -> list[int]:
    """`keep` ids: the first ones when the right side is cut, the last ones when the left side is."""
    return list(ids[:keep]) if side == "right" else list(ids[len(ids) - min(keep, len(ids)) :])


def pad_rows(
    columns: dict[str, list[list[int]]],
    *,
    padding: bool | str,
    max_length: int | None,
    multiple: int | None,
    side: Side,
    pad_id: int,
) -> dict[str, list[list[int]]]:
    """Every column with rows of one length; `input_ids` are filled with `pad_id`.

    Raises:
        ConfigError: an unknown padding, or `max_length` padding without a length.
    """
    if not isinstance(padding, Hashable) or padding not in _PADDINGS:
        raise ConfigError("padding", padding, "Use True, False, 'longest', 'max_length' or 'do_not_pad'.")
    kind = _PADDINGS[padding]
    if kind == "do_not_pad":
        return columns
    longest = max((len(row) for row in columns["input_ids"]), default=0)
    if kind == "max_length" and max_length is None:
        raise ConfigError("max_length", None, "padding='max_length' needs a length.")
    length = max(longest, max_length) if kind == "max_length" and max_length is not None else longest
    if multiple:
        length = -(-length // multiple) * multiple
    return {
        name: [_filled(row, length, _FILL.get(name, pad_id), side) for row in rows] for name, rows in columns.items()
    }


def as_arrays(columns: dict[str, list[list[int]]], kind: str | None) -> dict[str, Any]:
    """The columns as int32 arrays (rows, T) for "np", "ms" and "pt", unchanged for None.

    Raises:
        ConfigError: another kind, or rows of unequal length.
    """
    if kind is None:
        return columns
    if kind == "pt":
        log_once("return_tensors: 'pt' gives NumPy arrays here, which every network of this package takes.")
    elif kind not in ("np", "ms"):
        raise ConfigError("return_tensors", kind, "Use 'np' or 'ms' (both give NumPy int32 arrays) or leave it out.")
    if len({len(row) for row in columns["input_ids"]}) > 1:
        raise ConfigError("padding", False, "Rows of unequal length make no array; ask for padding=True.")
    return {name: np.array(rows, dtype=np.int32) for name, rows in columns.items()}


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths after taking tokens one by one from the longer text (from the second where they are equal)."""
    for _ in range(first + second - room):
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def _filled(row: list[int], length: int, value: int, side: Side) -> list[int]:
    gap = [value] * (length - len(row))
    return [*row, *gap] if side == "right" else [*gap, *row]
