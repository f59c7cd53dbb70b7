"""Records of a JSON, JSON-lines or parquet file with their line numbers; what cannot be read is told by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.log import logger

_SHOWN = 5  # faulty lines written out in a message; the rest is counted
_OPTIONS = {"train": "--train_dataset_dir", "eval": "--eval_dataset_dir"}


class Record(NamedTuple):
    """A parsed value and the line it starts on, from 1."""

    line: int
    value: Any


class Fault(NamedTuple):
    """A line that cannot be used, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def data_file(path: str | Path, phase: str) -> Path:
    """The path when it is a file with something in it.

    Raises:
        ConfigError: no path is given.
        DataError: the path is missing, a folder, or empty.
    """
    option = _OPTIONS.get(phase, "--train_dataset_dir")
    if not path:
        raise ConfigError("data_loader.dataset_dir", path, f"Name the data file: {option} FILE.")
    file = Path(path).expanduser()
    if file.is_dir():
        inside = sorted(item.name for item in file.iterdir() if item.suffix in (".json", ".jsonl", ".parquet"))
        hint = f"; it holds {', '.join(inside[:_SHOWN])}" if inside else ""
        raise DataError(str(file), f"this is a folder{hint}", f"Name the file itself: {option} {file}/FILE.json")
    if not file.is_file():
        raise DataError(str(file), "there is no such data file", f"Give its path: {option} FILE")
    if file.stat().st_size == 0:
        raise DataError(str(file), "the data file is empty", f"Give another one: {option} FILE")
    return file


def read_rows(file: Path, convert: Callable[[Record], Any], *, max_bad_ratio: float = 0.5) -> list[Any]:
    """`convert` of every record. Records that are not JSON, or that `convert` refuses with ValueError, are
    skipped, counted and reported by line.

    Raises:
        DataError: no record is usable, or more than `max_bad_ratio` of them are not.
    """
    rows, faults = [], []
    for record in read_records(file):
        if isinstance(record, Fault):
            faults.append(record)
            continue
        try:
            rows.append(convert(record))
        except ValueError as error:
            faults.append(Fault(record.line, str(error)))
    judge(file, len(rows), faults, max_bad_ratio)
    return rows


def read_records(file: Path) -> Iterator[Record | Fault]:
    """Records of a file: parquet rows by its suffix, else elements of one JSON array, else a value per line."""
    if file.suffix == ".parquet":
        yield from _parquet(file)
        return
    raw = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if raw.lstrip()[:1] == b"[" and not _is_value(raw.lstrip().partition(b"\n")[0], whole=raw):
        yield from _array(file, raw)
    else:
        yield from _lines(raw)


def _lines(raw: bytes) -> Iterator[Record | Fault]:
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield Record(number, json.loads(line.decode("utf-8"), strict=False))
        except UnicodeDecodeError:
            yield Fault(number, "not UTF-8")
        except (ValueError, RecursionError) as error:
            yield Fault(number, f"not JSON ({getattr(error, 'msg', None) or error})")


def _is_value(line: bytes, *, whole: bytes) -> bool:
    """Whether the first of several lines is a JSON value by itself, as in JSON lines."""
    if len(line) >= len(whole.strip()):
        return False
    try:
        json.loads(line, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _array(file: Path, raw: bytes) -> Iterator[Record]:
    """Elements of a file that is one JSON array.

    Raises:
        DataError: the array is broken somewhere; nothing of such a file is used.
    """
    fix = "Repair the JSON array, or write one object per line"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(str(file), f"not UTF-8 at byte {error.start}", "Save the file as UTF-8") from error
    decoder, line, counted = json.JSONDecoder(strict=False), 1, 0
    place = _skip(text, text.index("[") + 1)
    while text[place : place + 1] != "]":
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            at = line + text.count("\n", place, getattr(error, "pos", place))
            fault = f"the JSON array breaks at line {at} ({getattr(error, 'msg', None) or error})"
            raise DataError(str(file), fault, fix) from error
        yield Record(line, value)
        place = _skip(text, end)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != "]":
            fault = f"the JSON array breaks off at line {line + text.count(chr(10), counted, place)}"
            raise DataError(str(file), fault, fix)
    if text[place + 1 :].strip():
        raise DataError(str(file), "there is more after the JSON array", fix)


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _parquet(file: Path) -> Iterator[Record]:
    try:
        from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        fix = "Install it: pip install 'mindformers_glm[parquet]', or convert the file to JSON lines"
        raise DataError(str(file), f"reading parquet needs pyarrow ({error})", fix) from error
    try:
        table = parquet.read_table(file)
    except (ArrowInvalid, OSError) as error:
        raise DataError(str(file), "this is not a parquet file", "Convert it again, or rename it .jsonl") from error
    for number, value in enumerate(table.to_pylist(), 1):
        yield Record(number, value)


def judge(file: Path, kept: int, faults: list[Fault], max_bad_ratio: float) -> None:
    """Warns of faulty records, or refuses the file when none or too few are left.

    Raises:
        DataError: no record is usable, or more than `max_bad_ratio` of them are not.
    """
    total = kept + len(faults)
    if not total:
        raise DataError(str(file), "the file holds no records", "Fill it with one JSON object per line")
    if not faults:
        return
    shown = "; ".join(str(fault) for fault in faults[:_SHOWN])
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    counts = f"{len(faults)} of {total} records cannot be used: {shown}{more}"
    if not kept or len(faults) > max_bad_ratio * total:
        fix = "Repair these lines, or choose the data_loader and its columns (origin_columns) that fit this file"
        raise DataError(str(file), counts, fix)
    logger.warning("%s: %s. They are skipped.", file, counts)
