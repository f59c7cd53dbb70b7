"""Records of JSON text: one value per line, one array, objects over several lines, or rows under a key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.source import decoded, lines_of, refuse_encoding
from mindformers_glm.errors import DataError

_REPAIR = "Repair the JSON array, or write one object per line"
_WRAPPERS = ("data", "rows", "train", "examples", "items", "instances", "records", "samples", "dataset")
LONGEST = 1 << 28  # characters of one element
_LONGEST_WORD = 32  # characters at the end of a block that a value may be cut in: -Infinity, digits
_decoder = json.JSONDecoder(strict=False)


def json_records(file: Path, raw: bytes) -> Iterator[Record | Fault]:
    """Records with the line on which each begins.

    Raises:
        DataError: the file has another encoding than UTF-8, or one array that is broken somewhere.
    """
    head = raw.lstrip()
    first = head.partition(b"\n")[0]
    whole = len(first) >= len(head.rstrip())
    if head[:1] == b"[" and (whole or not _is_value(first)):
        text = decoded(file, raw)
        yield from elements(file, text, text.index("[") + 1)
    elif head[:1] == b"{" and (whole or not _is_value(first)):
        refuse_encoding(file, raw)
        yield from _objects(file, raw)
    else:
        refuse_encoding(file, raw)
        yield from _lines(raw)


def parsed_line(line: bytes, number: int) -> Record | Fault:
    """The value of a line of JSON lines."""
    try:
        return Record(number, json.loads(line.decode("utf-8"), strict=False))
    except UnicodeDecodeError:
        return Fault(number, "not UTF-8")
    except (ValueError, RecursionError) as error:
        return Fault(number, f"not JSON ({getattr(error, 'msg', None) or error})")


def _lines(raw: bytes) -> Iterator[Record | Fault]:
    for number, line in lines_of(raw):
        if line.strip():
            yield parsed_line(line, number)


def _is_value(line: bytes) -> bool:
    """Whether a line is a JSON value by itself, as in JSON lines."""
    try:
        json.loads(line, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _objects(file: Path, raw: bytes) -> Iterator[Record | Fault]:
    """Objects one after another, each over as many lines as it likes; or one that holds the rows under a key."""
    text = raw.decode("utf-8", "surrogateescape")
    begin = _wrapped_rows(text)
    if begin is not None:
        yield from elements(file, text, begin, closed=False)
        return
    found = list(_concatenated(text))
    if len(found) == 1 and isinstance(found[0], Record) and _is_columns(found[0].value):
        columns = found[0].value
        for index in next(iter(columns.values())):
            yield Record(1, {name: column.get(index) for name, column in columns.items()})
        return
    yield from found


def _concatenated(text: str) -> Iterator[Record | Fault]:
    place, line, counted = _skip(text, 0), 1, 0
    while place < len(text):
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, end = _decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield Fault(line, f"not JSON ({getattr(error, 'msg', None) or error})")
            end = text.find("\n{", place + 1)  # the next object that begins a line
            end = len(text) if end < 0 else end + 1
        else:
            yield Record(line, value) if _clean(text[place:end]) else Fault(line, "not UTF-8")
        place = _skip(text, end)
        if text[place : place + 1] == ",":  # an array that has lost its brackets
            place = _skip(text, place + 1)


def _clean(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= char <= "\udcff" for char in text)


def _is_columns(value: Any) -> bool:
    """Whether a value is a table by columns: {"a": {"0": ..., "1": ...}, ...}, what pandas writes by default."""
    if not isinstance(value, Mapping) or not value:
        return False
    columns = list(value.values())
    return all(
        isinstance(column, Mapping) and "0" in column and column.keys() == columns[0].keys() for column in columns
    )


def _wrapped_rows(text: str) -> int | None:
    """Where the rows begin in `{"data": [{...}, ...], ...}`; None where no key of the one object holds rows."""
    place = _skip(text, _skip(text, 0) + 1)
    try:
        while text[place : place + 1] == '"':
            key, place = _decoder.raw_decode(text, place)
            place = _skip(text, place)
            if text[place : place + 1] != ":":
                return None
            place = _skip(text, place + 1)
            begin = _skip(text, place + 1)
            if key in _WRAPPERS and text[place : place + 1] == "[" and text[begin : begin + 1] == "{":
                return begin
            value, place = _decoder.raw_decode(text, place)
            place = _skip(text, place)
            if text[place : place + 1] == ",":
                place = _skip(text, place + 1)
    except (ValueError, RecursionError):
        return None
    return None


def elements(
    file: Path, text: str, place: int, *, closed: bool = True, more: Callable[[], str] = str
) -> Iterator[Record]:
    """Elements of a JSON array from `place` on; `closed`: nothing follows it.

    `more` reads the next block of a text that is not in memory as a whole; what has been used is forgotten.

    Raises:
        DataError: the array is broken somewhere; what comes before that has been given.
    """
    line, counted = 1, 0
    while True:
        place = _skip(text, place)
        if place == len(text) and (block := more()):
            line, text, place, counted = line + text.count("\n", counted), block, 0, 0
            continue
        if text[place : place + 1] == "]":
            break
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = _decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            if _may_go_on(error, text) and len(text) - place < LONGEST and (block := more()):
                text, place, counted = text[place:] + block, 0, 0
                continue
            at = line + text.count("\n", place, getattr(error, "pos", place))
            fault = f"the JSON array breaks at line {at} ({getattr(error, 'msg', None) or error})"
            raise DataError(str(file), fault, _REPAIR) from error
        end = _skip(text, end)
        cut = end == len(text) or (text[end] not in ",]" and len(text) - end < _LONGEST_WORD)
        if cut and (block := more()):  # it may go on, or what follows it is not read yet
            text, place, counted = text[place:] + block, 0, 0
            continue
        yield Record(line, value)
        place = end
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            fault = f"the JSON array breaks off at line {line + text.count(chr(10), counted, place)}"
            raise DataError(str(file), fault, _REPAIR)
    rest = text[place + 1 :] if closed else ""
    while closed and not rest.strip() and (block := more()):
        rest = block
    if rest.strip():
        raise DataError(str(file), "there is more after the JSON array", _REPAIR)


def _may_go_on(error: Exception, text: str) -> bool:
    """Whether a value that cannot be read may be one whose end has not come yet."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated") or len(text) - error.pos < _LONGEST_WORD


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
