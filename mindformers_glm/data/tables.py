"""Records of tables: csv and tsv by their header, parquet and Arrow by their columns."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.source import decoded, suffix_of
from mindformers_glm.errors import DataError

_SEPARATORS = ",\t;|"
_BROKEN = 100  # each begins the reading anew behind it


def csv_records(file: Path, raw: bytes) -> Iterator[Record | Fault]:
    """Rows under the names of the first line; an empty cell is "", a missing one None.

    Raises:
        DataError: the file is not UTF-8, or its first line names no columns.
    """
    lines = [f"{line}\n" for line in decoded(file, raw).replace("\r\n", "\n").split("\n")]
    header = next((line for line in lines if line.strip()), "")
    separator = "\t" if suffix_of(file) == ".tsv" else max(_SEPARATORS, key=header.count)
    csv.field_size_limit(sys.maxsize)
    names, start, broken = None, 0, 0
    while start < len(lines):
        reader = csv.reader(lines[start:], delimiter=separator, strict=True)
        begin = start  # lines before the row that is read
        try:
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    pass
                elif names is None:
                    names = _names(file, cells)
                else:
                    yield _row(begin + 1, cells, names, separator)
                begin = start + reader.line_num
            return
        except csv.Error as error:
            yield Fault(begin + 1, f"not a row of a table ({error})")
            start, broken = begin + 1, broken + 1
            if broken > _BROKEN:
                fault = f"more than {_BROKEN} rows have broken quotes, the last in line {begin + 1}"
                raise DataError(str(file), fault, "Write the table again, with a csv library") from error


def _row(line: int, cells: list[str], names: list[str], separator: str) -> Record | Fault:
    if len(cells) > len(names):
        return Fault(line, f"{len(cells)} cells under {len(names)} columns; a cell with {separator!r} needs quotes")
    return Record(line, dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=True)))


def arrow_records(file: Path) -> Iterator[Record]:
    """Rows of a parquet, Arrow or Feather file. There null is how a table says that a key is absent: nested keys
    without a value are left out.

    Raises:
        DataError: pyarrow is not installed, or the file is none of these.
    """
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        from pyarrow import ipc, parquet  # noqa: PLC0415
    except ImportError as error:
        fix = "Install it: pip install 'mindformers_glm[parquet]', or convert the file to JSON lines"
        raise DataError(str(file), f"reading {file.suffix[1:]} needs pyarrow ({error})", fix) from error
    try:
        with file.open("rb") as source:
            head = source.read(6)
        if file.suffix.lower() == ".parquet":
            table = parquet.read_table(file)
        elif head == b"ARROW1":
            table = ipc.open_file(pyarrow.memory_map(str(file))).read_all()
        else:
            table = ipc.open_stream(pyarrow.memory_map(str(file))).read_all()
    except PermissionError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        fault = f"this is not a {file.suffix[1:]} file"
        raise DataError(str(file), fault, "Copy or convert it again, or rename it .jsonl") from error
    number = 0
    for batch in table.to_batches(max_chunksize=1000):
        for value in batch.to_pylist():
            number += 1
            yield Record(number, {name: without_nulls(cell) for name, cell in value.items()})


def without_nulls(value: Any) -> Any:
    """The value without the keys, at any depth, that hold nothing."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _names(file: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names) or not all(names):
        fault = f"the first line must name the columns, each once; it reads {', '.join(names)[:80]!r}"
        raise DataError(str(file), fault, "Write a first line such as content,summary")
    return names
