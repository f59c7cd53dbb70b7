"""Times of prompts and replies of given lengths, as the ATB guide's performance mode measures them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.benchmark.lengths import PAIR_COLUMNS
from mindformers_glm.files import user_path
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate
from mindformers_glm.generation.interface import Token

HEADER = ",".join(PAIR_COLUMNS)


class PairFigures(NamedTuple):
    """One line of the file. Times in the units of HEADER; throughput counts the tokens of the whole batch."""

    batch: int
    input_length: int
    output_length: int
    first_ms: float
    per_token_ms: float
    total_s: float
    throughput: float
    end_to_end: float

    @property
    def line(self) -> str:
        """As the document's program writes it."""
        return ", ".join(map(str, self))

    @property
    def said(self) -> str:
        """As the document's program prints it."""
        return (
            f"batch: {self.batch}, seq_len_in: {self.input_length}, seq_len_out: {self.output_length}, "
            f"time_of_first_token: {self.first_ms:.2f}ms, time_per_token: {self.per_token_ms:.2f}ms, "
            f"time_total: {self.total_s:.2f}s, througput: {self.throughput:.2f}tokens/s, "
            f"throughput_e2e: {self.end_to_end:.2f}tokens/s"
        )


def filled(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Prompts of exactly `length` ids: cut, or repeated from their beginning, so that every place costs its work."""
    return [(list(ids) * (length // len(ids) + 1))[:length] for ids in prompts]


def measure_pair(
    engine: Engine, prompts: Sequence[Sequence[int]], input_length: int, output_length: int
) -> tuple[PairFigures, list[list[int]]]:
    """Figures of a batch whose sequences have `input_length` ids and get `output_length` more, and the new ids.

    The first token has come when every sequence has its own; nothing ends a sequence early.
    """
    rows = filled(prompts, input_length)
    first, total, found = _timed(engine, rows, output_length)
    batch, rest = len(rows), max(total - first, 1e-9)
    return (
        PairFigures(
            batch,
            input_length,
            output_length,
            first * 1e3,
            rest / (output_length - 1) * 1e3,
            total,
            batch * (output_length - 1) / rest,
            batch * output_length / total,
        ),
        found,
    )


def warm_up(engine: Engine, prompts: Sequence[Sequence[int]], length: int) -> None:
    """Four tokens after prompts of `length`."""
    _timed(engine, filled(prompts, length), 4)


def append_line(path: str | Path, figures: PairFigures) -> None:
    """Appends a line to the file, with the header where the file is new or empty.

    Raises:
        OSError: it cannot be written.
    """
    place = user_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(HEADER + "\n")
        file.write(figures.line + "\n")


def _timed(engine: Engine, rows: Sequence[Sequence[int]], count: int) -> tuple[float, float, list[list[int]]]:
    """Seconds until every sequence had a token, and until the end; the new ids."""
    config = GenerationConfig(do_sample=False, max_new_tokens=count)
    first: dict[int, float] = {}

    def note(row: int, token: Token) -> None:
        first.setdefault(row, time.perf_counter())

    begin = time.perf_counter()
    results = generate(engine, rows, config, on_token=note)
    end = time.perf_counter()
    return max(first.values(), default=end) - begin, end - begin, [list(result.ids) for result in results]
