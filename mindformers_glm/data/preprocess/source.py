"""Records of corpora of any size, in a stream: nothing is held but the record in hand.

A chunk carries records as their file stores them (lines of JSON as bytes), so that the processes which tokenise also
parse. Faults are told by file and line.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from mindformers_glm.errors import DataError
from mindformers_glm.files import user_path

SUFFIXES = (".jsonl", ".json", ".txt", ".csv", ".tsv", ".parquet", ".arrow")
_BLOCK = 1 << 20  # characters read at a time from a JSON array
_LONGEST = 1 << 30  # characters of one element of a JSON array


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
            fix = f"Files read: {', '.join(SUFFIXES)}, each also as .gz (parquet and arrow excepted)"
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
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
        if suffixes and suffixes[-1] in (".parquet", ".arrow"):
            return ""
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    kind = _kind(path)
    try:
        if kind == ".parquet":
            yield from enumerate(_parquet(path), 1)
        elif kind == ".arrow":
            yield from enumerate(_arrow(path), 1)
        elif kind in (".csv", ".tsv"):
            yield from _table(path, "," if kind == ".csv" else "\t")
        elif kind == ".txt":
            yield from ((number, {"text": _text(path, number, line)}) for number, line in _lines(path))
        elif _is_array(path):
            yield from enumerate(_array(path), 1)
        else:
            yield from _lines(path)
    except gzip.BadGzipFile as error:
        raise DataError(str(path), "this is no gzip file", "Rename it without .gz, or copy it again") from error
    except EOFError as error:
        raise DataError(str(path), "the gzip file breaks off", "Copy it again") from error
    except PermissionError as error:
        raise DataError(str(path), "it may not be read", "Ask for permission to read it (chmod)") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, line


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"line {number} is not UTF-8", "Save the file as UTF-8") from error


def _is_array(path: Path) -> bool:
    """Whether a file is one JSON array, and not arrays line by line."""
    with _open(path) as file:
        head = file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"["):
        return False
    line, found, _ = head.partition(b"\n")
    if not found:
        return True
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def _array(path: Path) -> Iterator[Any]:
    """Elements of a JSON array, each parsed when the text read so far holds it and what follows it."""
    decoder, counted = json.JSONDecoder(strict=False), 0
    with _open(path) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8-sig")
        text = _more(path, file)
        place = _skip(text, text.index("[") + 1)
        while True:
            ended = place < len(text) and text[place] == "]"
            if ended:
                if (text[place + 1 :] + _more(path, file)).strip():
                    raise DataError(str(path), "there is more after the JSON array", "Write one array a file")
                return
            try:
                value, end = decoder.raw_decode(text, place)
                end = _skip(text, end)
            except (ValueError, RecursionError):
                end = len(text)
            if end == len(text):  # the element may go on behind what has been read
                block = _more(path, file)
                if not block or len(text) - place > _LONGEST:
                    raise _broken(path, counted)
                text, place = text[place:] + block, 0
                place = _skip(text, place)
                continue
            counted += 1
            yield value
            if text[end] not in ",]":
                raise _broken(path, counted)
            place = _skip(text, end + 1) if text[end] == "," else end


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _broken(path: Path, counted: int) -> DataError:
    fault = f"the JSON array breaks after {counted} elements"
    return DataError(str(path), fault, "Repair it, or write one object a line")


def _more(path: Path, file: io.TextIOWrapper) -> str:
    try:
        return file.read(_BLOCK)
    except UnicodeDecodeError as error:
        raise DataError(str(path), "the file is not UTF-8", "Save the file as UTF-8") from error


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    with _open(path) as raw:
        reader = csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), delimiter=delimiter)
        try:
            for row in reader:
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            told = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            fault = f"line {reader.line_num + 1} cannot be read ({told})"
            raise DataError(str(path), fault, "Save the table as UTF-8 CSV") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _without_pyarrow(path, error) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise DataError(str(path), "this is not a parquet file", "Convert it again, or rename it .jsonl") from error


def _arrow(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowInvalid, ipc  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _without_pyarrow(path, error) from error
    try:
        with path.open("rb") as raw:
            try:
                reader: Iterable = ipc.open_stream(raw)
            except ArrowInvalid:
                raw.seek(0)
                whole = ipc.open_file(raw)
                reader = (whole.get_batch(number) for number in range(whole.num_record_batches))
            for batch in reader:
                yield from batch.to_pylist()
    except PermissionError:
        raise
    except (ArrowInvalid, OSError, MemoryError) as error:  # what is no arrow file states sizes that nobody has
        raise DataError(str(path), "this is not an arrow file", "Save the dataset again, or use .jsonl") from error


def _without_pyarrow(path: Path, error: ImportError) -> DataError:
    fix = "Install it: pip install 'mindformers_glm[parquet]', or convert the file to JSON lines"
    return DataError(str(path), f"reading this file needs pyarrow ({error})", fix)
