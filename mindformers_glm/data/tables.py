"""Records of tables: csv and tsv by their header, parquet and Arrow by their columns."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.source import suffix_of
from mindformers_glm.errors import DataError

_SEPARATORS = ",\t;|"
_BATCH = 1000  # rows of a binary table in memory
_BROKEN = 100  # each begins the reading anew after it


class _Lines(Iterator[str]):
    """Lines of a text, counted; those taken since the last row can be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.coming, self.again, self.taken, self.rows_end = iter(lines), deque[str](), list[str](), 0

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.coming)
        self.taken.append(line)
        return line[:-2] + "\n" if line.endswith("\r\n") else line

    def end_row(self) -> None:
        """What was taken is a row."""
        self.rows_end += len(self.taken)
        self.taken.clear()

    def skip_line(self) -> None:
        """The first line taken is none; the others come again."""
        self.rows_end += 1
        self.again.extendleft(reversed(self.taken[1:]))
        self.taken.clear()


def csv_records(file: Path, lines: Iterable[str]) -> Iterator[Record | Fault]:
    """Rows, of lines with their ends, under the names of the first line; an empty cell is "", a missing one None.

    Raises:
        DataError: the first line names no columns, or quotes are broken everywhere.
    """
    source, separator = _Lines(lines), "\t"
    if suffix_of(file) != ".tsv":
        header = next((line for line in source if line.strip()), "")
        separator = max(_SEPARATORS, key=header.count)
        source.again.extend(source.taken)
        source.taken.clear()
    csv.field_size_limit(sys.maxsize)
    names, broken, ended = None, 0, False
    while not ended:
        try:
            for cells in csv.reader(source, delimiter=separator, strict=True):
                if not any(cell.strip() for cell in cells):
                    pass
                elif names is None:
                    names = _names(file, cells)
                else:
                    yield _row(source.rows_end + 1, cells, names, separator)
                source.end_row()
            ended = True
        except csv.Error as error:
            line, broken = source.rows_end + 1, broken + 1
            yield Fault(line, f"not a row of a table ({error})")
            source.skip_line()
            if broken > _BROKEN:
                fault = f"more than {_BROKEN} rows have broken quotes, the last in line {line}"
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
        number = 0
        for batch in _batches(file, head, ipc, parquet, pyarrow):
            for value in batch.to_pylist():
                number += 1
                yield Record(number, {name: without_nulls(cell) for name, cell in value.items()})
    except PermissionError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:  # some state sizes that nobody has
        fault = f"this is not a {file.suffix[1:]} file"
        raise DataError(str(file), fault, "Copy or convert it again, or rename it .jsonl") from error


def _batches(file: Path, head: bytes, ipc: Any, parquet: Any, pyarrow: Any) -> Iterator[Any]:
    """Batches of rows, one at a time in memory."""
    if file.suffix.lower() == ".parquet":
        with parquet.ParquetFile(file) as source:
            yield from source.iter_batches(batch_size=_BATCH)
        return
    mapped = pyarrow.memory_map(str(file))
    if head == b"ARROW1":
        source = ipc.open_file(mapped)
        whole = (source.get_batch(number) for number in range(source.num_record_batches))
    else:
        whole = iter(ipc.open_stream(mapped))
    for batch in whole:
        yield from (batch.slice(begin, _BATCH) for begin in range(0, batch.num_rows, _BATCH))


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
