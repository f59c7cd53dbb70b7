"""What an evaluation is made of: rows, the questions that a row puts to the engine, and how its answers are judged.

A task is asked for its rows; each row runs as a generator that yields requests and is sent their answers, and returns
what was judged. So a row may ask twice (answer first, then the letter), and rows that wait at the same place are
answered together as one batch. Ids in and out; a task knows the tokenizer, the runner knows neither text nor task.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class Score(NamedTuple):
    """Asks for the log-probability of each continuation after a context. Answer: `Scored`."""

    context: list[int]
    continuations: list[list[int]]


class Scored(NamedTuple):
    """Sum over the ids of each continuation (natural logarithm), and whether greedy search would have chosen them.

    `logprobs` are those of the single ids.
    """

    sums: list[float]
    is_greedy: list[bool]
    logprobs: list[np.ndarray]


class Text(NamedTuple):
    """Asks for greedy text. Answer: the new ids.

    `max_length` counts prompt and new ids instead; `ends` are ids that end it besides those of the model.
    """

    prompt: list[int]
    max_new_tokens: int | None
    max_length: int | None = None
    ends: tuple[int, ...] = ()


Request = Score | Text


class Options(NamedTuple):
    """What is the same for every task. `limit` counts rows of each subject."""

    data_dir: str | Path | None = None
    subjects: Sequence[str] | None = None
    num_fewshot: int | None = None
    way: str | None = None
    limit: int | None = None
    max_length: int | None = None  # the model's, for what is cut


class Row(NamedTuple):
    """One question. `fields` is what the task knows of it."""

    subject: str
    number: int
    fields: dict[str, Any]

    @property
    def key(self) -> str:
        """What tells the row from all others of its task."""
        return f"{self.subject}/{self.number}"


class Judged(NamedTuple):
    """Figures of a row (1.0 right, 0.0 wrong, or sums that the task divides), and what is written down about it."""

    figures: dict[str, float]
    details: dict[str, Any]


Steps = Generator[Request, Any, Judged]


class Task(Protocol):
    """A benchmark."""

    name: str

    def rows(self) -> Sequence[Row]:
        """All rows, in order.

        Raises:
            DataError: a file is missing or damaged; a subject that has none is named.
        """

    def steps(self, row: Row) -> Steps:
        """The requests of a row, and at the end what was judged."""

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """Averages of all rows."""


class Results(NamedTuple):
    """`subjects` and `groups`: name -> figures ("acc", "questions" ...); `notes` are said beside them."""

    subjects: dict[str, dict[str, float]]
    groups: dict[str, dict[str, float]]
    notes: list[str] = []
