"""Records of corpora of any size, in a stream: nothing is held but the record in hand.

A chunk carries records as their file stores them (lines of JSON as bytes), so that the processes which tokenise also
parse. Faults are told by file and line.
"""

from __future__ import annotations

import glob
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from mindformers_glm.data.json_rows import elements, json_records
from mindformers_glm.data.record import Fault
from mindformers_glm.data.source import SUFFIXES, opened, suffix_of
from mindformers_glm.data.tables import arrow_records, csv_records
from mindformers_glm.errors import DataError
from mindformers_glm.files import user_path

_BINARY = (".parquet", ".arrow", ".feather")
_ROWS_INSIDE = re.compile(rb'\{\s*"[^"]*"\s*:\s*\[\s*\{')  # {"data": [{...
_BLOCK = 1 << 20  # characters read at a time from a JSON array


class Chunk(NamedTuple):
    """Some records of one file with their lines, from 1; bytes are JSON that is still to be parsed."""

    place: str
    records: list[tuple[int, Any]]


def files_of(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files that paths, folders, globs and comma-separated lists of them name, in order.

    Raises:
        DataError: one names nothing, or a kind of file that is not read.
    """
    words = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    names = [str(name) for word in words for name in _names(word)]
    found: list[Path] = []
    for name in names:
        path = user_path(name)
        if path.is_dir():
            own = sorted(item for item in path.iterdir() if item.is_file() and _kind(item))
        elif path.is_file():
            own = [path]
        else:
            own = sorted(Path(item) for item in glob.glob(str(path), recursive=True) if Path(item).is_file())
        if not own:
            raise DataError(name, "there is no such data file", "Give --input FILE, a folder, or a pattern in quotes")
        found += own
    for path in found:
        if not _kind(path):
            fix = f"Files read: {', '.join(SUFFIXES)}, each also as .gz, .bz2 and .xz ({', '.join(_BINARY)} excepted)"
            raise DataError(str(path), "its ending says no format of data", fix)
    return found


def chunks(files: Iterable[Path], *, size: int, skip: int = 0) -> Iterator[Chunk]:
    """The records of the files in order, `size` at a time, without the first `skip` of all.

    Raises:
        DataError: a file cannot be read, or breaks off.
    """
    for path in files:
        records: list[tuple[int, Any]] = []
        for record in _records(path):
            if skip:
                skip -= 1
                continue
            records.append(record)
            if len(records) == size:
                yield Chunk(str(path), records)
                records = []
        if records:
            yield Chunk(str(path), records)


def parsed(chunk: Chunk) -> Iterator[tuple[int, Any]]:
    """Line and value of each record of a chunk.

    Raises:
        DataError: a line is no JSON; it is named.
    """
    for number, record in chunk.records:
        if not isinstance(record, bytes):
            yield number, record
            continue
        try:
            yield number, json.loads(record.decode("utf-8"), strict=False)
        except UnicodeDecodeError as error:
            fault = f"line {number} is not UTF-8 (byte {error.start})"
            raise DataError(chunk.place, fault, "Save the file as UTF-8 (iconv -f GBK -t UTF-8)") from error
        except (ValueError, RecursionError) as error:
            fault = f"line {number} is not JSON ({getattr(error, 'msg', None) or 'nested too deep'})"
            raise DataError(chunk.place, fault, "Write one JSON object a line, or one JSON array a file") from error


def _names(word: str | Path) -> list[str]:
    text = str(word)
    return [text] if user_path(text).exists() else [part for part in text.split(",") if part]


def _kind(path: Path) -> str:
    suffix = suffix_of(path)
    packed = path.suffix.lower() != suffix
    return suffix if suffix in SUFFIXES and not (packed and suffix in _BINARY) else ""


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Line and record; lines of JSON as they stand in the file.

    Raises:
        DataError: the file cannot be read, or breaks off.
    """
    kind = _kind(path)
    if kind in _BINARY:
        yield from arrow_records(path)
        return
    with opened(path) as source:
        if kind in (".csv", ".tsv"):
            yield from _table(path, source)
        elif kind == ".txt":
            yield from ((number, {"text": _text(path, number, line)}) for number, line in _lines(source))
        else:
            yield from _json(path, source)


def _lines(source: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(source, 1) if line.strip())


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"line {number} is not UTF-8", "Save the file as UTF-8") from error


def _json(path: Path, source: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """JSON lines, one array, or what else json_records knows, which is read into memory."""
    begin = source.tell()
    head = source.read(_BLOCK).lstrip()
    source.seek(begin)
    first, behind, _ = head.partition(b"\n")
    if behind and _is_value(first):
        yield from _lines(source)
    elif head[:1] == b"[":
        text = io.TextIOWrapper(source, encoding="utf-8")
        block = _more(path, text)
        yield from elements(path, block, block.index("[") + 1, more=lambda: _more(path, text))
    elif _ROWS_INSIDE.match(head) or (behind and head[:1] == b"{" and first.rstrip()[-1:] in b"{[,:"):
        for record in json_records(path, source.read()):
            if isinstance(record, Fault):
                raise DataError(str(path), str(record), "Write one JSON object a line, or one JSON array a file")
            yield record
    else:
        yield from _lines(source)


def _is_value(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _more(path: Path, file: io.TextIOWrapper) -> str:
    try:
        return file.read(_BLOCK)
    except UnicodeDecodeError as error:
        raise DataError(str(path), "the file is not UTF-8", "Save the file as UTF-8") from error


def _table(path: Path, source: IO[bytes]) -> Iterator[tuple[int, Any]]:
    line = 0
    try:
        for record in csv_records(path, io.TextIOWrapper(source, encoding="utf-8", newline="\n")):
            line = record.line
            if isinstance(record, Fault):
                raise DataError(str(path), str(record), "Repair the line, or write the table again with a csv library")
            yield record
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"it is not UTF-8 after line {line}", "Save the table as UTF-8 CSV") from error
