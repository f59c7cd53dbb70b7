"""Rows of a task answered by an engine: batches, a journal from which a killed run goes on, ranks.

Rows are taken in windows of fixed borders. A window is written to the journal when all its rows are judged, so that a
run that goes on makes the same batches, and the same figures, as one that was not disturbed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from mindformers_glm.errors import DataError, GenerationError
from mindformers_glm.evaluation.interface import Judged, Request, Row, Score, Scored, Steps, Task, Text
from mindformers_glm.evaluation.share import ALL, Share
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate
from mindformers_glm.generation.scoring import in_good_order
from mindformers_glm.log import logger

_WINDOW = 32  # batches
_LONGER = "a longer --seq_length or a smaller --num_fewshot lets them stand whole"


class Answered(NamedTuple):
    """Every row with its verdict, in order, and how long the rows took that this run computed."""

    judged: list[tuple[Row, Judged]]
    seconds: float
    computed: int


def answer(
    task: Task,
    engine: Engine,
    *,
    batch_size: int = 8,
    journal: str | Path | None = None,
    identity: dict[str, Any] | None = None,
    share: Share = ALL,
    shows_bar: bool = False,
) -> Answered:
    """Asks the engine what the rows of a task ask, and judges the answers.

    `journal` names the file that rows are kept in until the end; a run with another `identity` starts anew. `share`
    says which rows this rank computes; the verdicts are those of all ranks.

    Raises:
        DataError: the task's files are not as they must be.
        GenerationError: a prompt does not fit the model.
    """
    rows = task.rows()
    own = [row for number, row in enumerate(rows) if share.has(number)]
    kept = _Journal(
        journal, share, {"task": task.name, "rows": len(rows), "batch_size": batch_size, **(identity or {})}
    )
    begin, computed, window, is_told = time.perf_counter(), 0, batch_size * _WINDOW, False
    bar = tqdm(total=len(own), desc=task.name, unit="row", disable=not shows_bar, leave=False, ncols=100)
    try:
        for start in range(0, len(own), window):
            part = own[start : start + window]
            if all(row.key in kept.verdicts for row in part):
                bar.update(len(part))
                continue
            verdicts = _answer_window(task, engine, part, batch_size, bar)
            kept.add(part, verdicts)
            if not is_told and any(verdict.details.get("cut") for verdict in verdicts):
                is_told = True
                logger.warning("%s: prompts are cut to fit; %s", task.name, _LONGER)
            computed += len(part)
    finally:
        bar.close()
        kept.close()
    seconds = time.perf_counter() - begin
    numbered = {number: kept.verdicts[row.key] for number, row in enumerate(rows) if share.has(number)}
    found = share.joined({number: [verdict.figures, verdict.details] for number, verdict in numbered.items()})
    judged = [(row, Judged(*verdict)) for row, verdict in zip(rows, found, strict=True)]
    return Answered(judged, seconds, computed)


def _answer_window(task: Task, engine: Engine, rows: Sequence[Row], batch_size: int, bar: Any) -> list[Judged]:
    """Verdicts of rows; those that wait at the same kind of request are answered together."""
    steps: list[Steps] = [task.steps(row) for row in rows]
    verdicts: list[Judged | None] = [None] * len(rows)
    asked: dict[int, Request] = {}

    def go_on(number: int, reply: Any) -> None:
        try:
            asked[number] = steps[number].send(reply)
        except StopIteration as end:
            asked.pop(number, None)
            verdicts[number] = end.value
            bar.update(1)

    for number in range(len(rows)):
        go_on(number, None)
    while asked:
        kind = type(next(iter(asked.values())))
        numbers = [number for number, request in asked.items() if type(request) is kind]
        answers = _texts if kind is Text else _scores
        for number, reply in answers(engine, numbers, asked, rows, batch_size):
            go_on(number, reply)
    return [verdict for verdict in verdicts if verdict is not None]


def _texts(
    engine: Engine, numbers: Sequence[int], asked: dict[int, Any], rows: Sequence[Row], batch_size: int
) -> list[tuple[int, list[int]]]:
    found = []
    for begin in range(0, len(numbers), batch_size):
        part = numbers[begin : begin + batch_size]
        for limit in sorted({asked[number].max_new_tokens for number in part}):
            group = [number for number in part if asked[number].max_new_tokens == limit]
            config = engine.defaults.updated(
                do_sample=False, num_beams=1, repetition_penalty=1.0, max_length=None, max_new_tokens=limit
            )
            prompts = [asked[number].prompt for number in group]
            _check_room(engine, prompts, config, [rows[number] for number in group])
            results = generate(engine, prompts, config)
            found += [(number, list(result.ids)) for number, result in zip(group, results, strict=True)]
    return found


def _check_room(engine: Engine, prompts: list[list[int]], config: GenerationConfig, rows: Sequence[Row]) -> None:
    for prompt, row in zip(prompts, rows, strict=True):
        try:
            config.limits(prompt, seq_length=engine.max_length)
        except GenerationError as error:
            raise GenerationError(f"{row.key}: {error}") from error


def _scores(
    engine: Engine, numbers: Sequence[int], asked: dict[int, Any], rows: Sequence[Row], batch_size: int
) -> list[tuple[int, Scored]]:
    simple = [number for number in numbers if all(len(ids) == 1 for ids in asked[number].continuations)]
    others = [number for number in numbers if number not in set(simple)]
    found = []
    order = [simple[place] for place in in_good_order([asked[number].context for number in simple])]
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        contexts = [asked[number].context for number in part]
        wanted = [[ids[0] for ids in asked[number].continuations] for number in part]
        for number, ids, (logprobs, best) in zip(
            part, wanted, _told(engine, contexts, wanted, rows, part), strict=True
        ):
            greedy = [index == best for index in ids]
            found.append(
                (number, Scored([float(v) for v in logprobs], greedy, [logprobs[i : i + 1] for i in range(len(ids))]))
            )
    for number in others:
        request: Score = asked[number]
        try:
            scores = engine.score(request.context, request.continuations)
        except GenerationError as error:
            raise GenerationError(f"{rows[number].key}: {error}") from error
        sums = [float(score.logprobs.sum()) for score in scores]
        found.append(
            (number, Scored(sums, [score.is_greedy for score in scores], [score.logprobs for score in scores]))
        )
    return found


def _told(engine: Engine, contexts: list, wanted: list, rows: Sequence[Row], numbers: Sequence[int]) -> list:
    for context, number in zip(contexts, numbers, strict=True):
        if len(context) > engine.max_length:
            fault = f"{rows[number].key}: {len(context)} tokens and the model's seq_length is {engine.max_length}"
            raise GenerationError(fault)
    return engine.score_batch(contexts, wanted)


def cut_note(judged: Sequence[tuple[Row, Judged]]) -> list[str]:
    """A sentence about prompts that did not stand whole; none where all did."""
    cut = sum(bool(verdict.details.get("cut")) for _, verdict in judged)
    return [f"{cut} of {len(judged)} prompts were cut to fit: {_LONGER}"] if cut else []


class _Journal:
    """Verdicts of rows, on the disk as they come; each rank has its own file."""

    def __init__(self, path: str | Path | None, share: Share, identity: dict[str, Any]) -> None:
        self.verdicts: dict[str, Judged] = {}
        self._file: IO[str] | None = None
        self.path = None
        if path is None:
            return
        self.path = Path(path) if share.size == 1 else Path(f"{path}.rank{share.rank}")
        known = json.loads(json.dumps({**identity, "ranks": share.size}))
        self._read(known)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            fix = "Name another --output_dir"
            raise DataError(str(self.path), f"it cannot be written ({error.strerror})", fix) from error
        if not self.verdicts:
            self._file.truncate(0)
            self._write([known])

    def _read(self, identity: dict[str, Any]) -> None:
        """Takes what an earlier run with the same settings left; a line that was cut off is dropped."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        try:
            same = json.loads(lines[0]) == identity
        except ValueError:
            same = False
        if not same:
            logger.warning("%s is of another run (its first line says which): it is written anew", self.path)
            return
        whole = len(lines[0]) + 1
        for line in lines[1:-1]:
            try:
                fields = json.loads(line)
                self.verdicts[fields["row"]] = Judged(fields["figures"], fields["details"])
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line) + 1
        os.truncate(self.path, whole)
        logger.info("%s: %d rows of an earlier run are taken", self.path, len(self.verdicts))

    def add(self, rows: Sequence[Row], verdicts: Sequence[Judged]) -> None:
        """Keeps the verdicts of a window."""
        self.verdicts.update(zip((row.key for row in rows), verdicts, strict=True))
        if self._file is not None:
            self._write(
                [
                    {"row": row.key, "figures": verdict.figures, "details": verdict.details}
                    for row, verdict in zip(rows, verdicts, strict=True)
                ]
            )

    def close(self) -> None:
        """Closes the file, which stays."""
        if self._file is not None:
            self._file.close()

    def _write(self, values: Sequence[dict[str, Any]]) -> None:
        try:
            self._file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            fix = "Free space and start the same command again: it goes on where it was"
            raise DataError(str(self.path), f"it cannot be written ({error.strerror})", fix) from error
