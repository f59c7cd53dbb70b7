"""Records of data files of every kind with their line numbers; what cannot be read is told by line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mindformers_glm.data.forms import form_of
from mindformers_glm.data.json_rows import json_records
from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.source import decoded, read_data, suffix_of
from mindformers_glm.data.tables import arrow_records, csv_records
from mindformers_glm.errors import DataError
from mindformers_glm.log import logger

__all__ = ["Fault", "Record", "judge", "read_records", "read_rows"]
_SHOWN = 5  # faulty lines written out in a message; the rest is counted
_REPAIR = "Repair these lines, or choose the data_loader and its columns (origin_columns) that fit this file"


def read_rows(
    file: Path,
    convert: Callable[[Record], Any],
    *,
    max_bad_ratio: float = 0.5,
    faults: list[Fault] | None = None,
) -> list[Any]:
    """`convert` of every record. Records that are not JSON, or that `convert` refuses with ValueError, are
    skipped, counted and reported by line; `faults` receives them.

    Raises:
        DataError: no record is usable, or more than `max_bad_ratio` of them are not.
    """
    rows, refused = [], None
    faults = [] if faults is None else faults
    for record in read_records(file):
        if isinstance(record, Fault):
            faults.append(record)
            continue
        try:
            rows.append(convert(record))
        except ValueError as error:
            faults.append(Fault(record.line, str(error)))
            refused = refused or record
    judge(file, len(rows), faults, max_bad_ratio, fix=_other_form(refused))
    return rows


def _other_form(refused: Record | None) -> str:
    """What reads the rows of this file, told by the first that was refused; "" where its columns say nothing."""
    form = form_of(refused.value) if refused is not None else None
    if form is None:
        return ""
    if form.refused:
        return form.refused
    return f"Repair these lines; or, as they have the columns of {form.name}, use {form.said} with {form.dataset}"


def read_records(file: Path) -> Iterator[Record | Fault]:
    """Records of a file: tables by their suffix, anything else as JSON in one of its forms; .gz, .bz2, .xz unpacked.

    Raises:
        DataError: the file may not be read, is damaged as a whole, or is no data.
    """
    suffix = suffix_of(file)
    if suffix in (".parquet", ".arrow", ".feather") and file.suffix.lower() == suffix:
        yield from arrow_records(file)
        return
    raw = read_data(file)
    if suffix in (".csv", ".tsv") and raw.lstrip()[:1] not in (b"{", b"["):
        yield from csv_records(file, io.StringIO(decoded(file, raw), newline="\n"))
    else:
        yield from json_records(file, raw)


def judge(file: Path, kept: int, faults: list[Fault], max_bad_ratio: float, *, fix: str = "") -> None:
    """Warns of faulty records, or refuses the file when none or too few are left; `fix` says what to do then.

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
        raise DataError(str(file), counts, fix or _REPAIR)
    logger.warning("%s: %s. They are skipped.", file, counts)
