"""Rows of a task answered by an engine: batches, a journal from which a killed run goes on, ranks.

Rows are taken in windows of fixed borders. A window is written to the journal when all its rows are judged, and ranks
share whole windows: a run that goes on, or that several processes do, makes the same batches as one that was not
disturbed, and the same figures to the last bit.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mindformers_glm.errors import GenerationError
from mindformers_glm.evaluation.interface import Judged, Request, Row, Score, Scored, Steps, Task, Text
from mindformers_glm.evaluation.journal import Journal
from mindformers_glm.evaluation.share import ALL, Share
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate
from mindformers_glm.log import logger

_WINDOW, _PORTIONS = 16, 16  # batches of a portion at most; portions at least, where they are no smaller than a batch
_ALIKE = 64  # ids: contexts with so long a common beginning are computed after one copy of it
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
    windows = _windows(rows, batch_size)
    own = {number: part for number, part in enumerate(windows) if share.has(number)}
    kept = Journal(journal, share, {"task": task.name, "rows": len(rows), "batch_size": batch_size, **(identity or {})})
    begin, computed, is_told = time.perf_counter(), 0, False
    total = sum(map(len, own.values()))
    bar = tqdm(total=total, desc=task.name, unit="row", disable=not shows_bar, leave=False, ncols=100)
    try:
        for part in own.values():
            if all(row.key in kept.verdicts for row in part):
                bar.update(len(part))
                continue
            engine.forget()  # what was computed before decides how a beginning is summed up: to the last bit the same
            verdicts = _answer_window(task, engine, part, batch_size, bar)
            kept.add(part, verdicts)
            computed += len(part)
            if not is_told and any(verdict.details.get("cut") for verdict in verdicts):
                is_told = True
                logger.warning("%s: prompts are cut to fit; %s", task.name, _LONGER)
    finally:
        bar.close()
        kept.close()
    seconds = time.perf_counter() - begin
    told = {number: [list(kept.verdicts[row.key]) for row in part] for number, part in own.items()}
    found = [verdict for part in share.joined(told) for verdict in part]
    judged = [(row, Judged(*verdict)) for row, verdict in zip(rows, found, strict=True)]
    return Answered(judged, seconds, computed)


def _windows(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """The rows in portions with borders between subjects, where these are no larger than a portion.

    The borders depend on nothing but the rows and the batch size: not on how many ranks share them, nor on where a run
    goes on.
    """
    size = min(max(len(rows) // _PORTIONS, batch_size), _WINDOW * batch_size)
    found: list[list[Row]] = []
    for _, group in itertools.groupby(rows, key=lambda row: row.subject):
        subject = list(group)
        for begin in range(0, len(subject), size):
            part = subject[begin : begin + size]
            if found and begin == 0 and len(found[-1]) + len(part) <= size:
                found[-1].extend(part)
            else:
                found.append(part)
    return found


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
    groups: dict[tuple, list[int]] = {}
    for number in sorted(numbers, key=lambda number: len(asked[number].prompt)):
        _, *settings = asked[number]
        groups.setdefault(tuple(settings), []).append(number)
    found = []
    for (new, whole, ends), group in groups.items():
        config = engine.defaults.ending_also(ends).updated(
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            max_length=whole,
            max_new_tokens=new,
        )
        for begin in range(0, len(group), batch_size):
            part = group[begin : begin + batch_size]
            prompts = [asked[number].prompt for number in part]
            _check_room(engine, prompts, config, [rows[number] for number in part])
            results = generate(engine, prompts, config)
            found += [(number, list(result.ids)) for number, result in zip(part, results, strict=True)]
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
    for part in _batches(simple, asked, batch_size):
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


def _batches(numbers: Sequence[int], asked: dict[int, Any], batch_size: int) -> list[list[int]]:
    """Batches of contexts that begin alike, by length; those that begin like no other share batches."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in sorted(numbers, key=lambda number: len(asked[number].context)):
        groups.setdefault(tuple(asked[number].context[:_ALIKE]), []).append(number)
    alone = [group[0] for group in groups.values() if len(group) == 1]
    lists = [group for group in groups.values() if len(group) > 1] + [alone]
    return [group[begin : begin + batch_size] for group in lists for begin in range(0, len(group), batch_size)]


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
