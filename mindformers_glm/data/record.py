"""What a data file is made of: values with their lines, and lines that cannot be used."""

from __future__ import annotations

from typing import Any, NamedTuple


class Record(NamedTuple):
    """A parsed value and the line it starts on, from 1 (of a table without lines: its row)."""

    line: int
    value: Any


class Fault(NamedTuple):
    """A line that cannot be used, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"
