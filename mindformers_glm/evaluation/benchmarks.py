"""Benchmarks of a loaded model, from Python and from the command line: tasks by name, report into a folder.

from mindformers_glm.evaluation.benchmarks import evaluate
results = evaluate(engine, tokenizer, ["ceval-valid"], data_dir="ceval", output_dir="output/ceval")
results["groups"]["ceval-valid"]["acc,none"]
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.answering import answer, cut_note
from mindformers_glm.evaluation.interface import Options, Task
from mindformers_glm.evaluation.report import TaskRun, as_json, write_report
from mindformers_glm.evaluation.share import ALL, Share
from mindformers_glm.evaluation.tasks.registered import TASKS, build_task
from mindformers_glm.files import user_path
from mindformers_glm.generation.engine import Engine
from mindformers_glm.log import logger
from mindformers_glm.tokenizers.chatglm import GLM3_ROLES
from mindformers_glm.version import __version__


def evaluate(
    engine: Engine,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    data_dir: str | Path | None = None,
    subjects: Sequence[str] | None = None,
    way: str | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    output_dir: str | Path | None = None,
    model_name: str = "",
    model_family: str | None = None,
    weights: str | None = None,
    share: Share = ALL,
    shows_bar: bool = False,
) -> dict[str, Any]:
    """What results.json holds, in lm-evaluation-harness' form; written with its samples where a folder is named.

    `data_dir` is the folder of the benchmark; with several tasks, the folder that holds one of each name (ceval, cmmlu,
    mmlu). `limit` counts rows of each subject. A run that was killed goes on from its output folder. `model_family` (a
    name of models/family.py) is what `--why` holds against the tokenizer; other `weights` (any text that tells them
    apart) begin anew.

    Raises:
        ConfigError: a task, way or subject that does not exist.
        DataError: a benchmark's file is missing or damaged.
        GenerationError: a prompt does not fit the model.
    """
    built = built_tasks(
        tasks,
        tokenizer,
        data_dir=data_dir,
        subjects=subjects,
        way=way,
        num_fewshot=num_fewshot,
        limit=limit,
        max_length=engine.max_length,
    )
    about = {"model": model_name, "model_family": model_family, **_about(engine, tokenizer, batch_size)}
    runs = []
    for task in built:
        config = {
            "task": task.name,
            "way": getattr(task, "way_name", way),
            "num_fewshot": getattr(task, "num_fewshot", num_fewshot or 0),
            "limit": limit,
            "subjects": list(subjects) if subjects else None,
        }
        journal = None if output_dir is None else Path(output_dir) / f".rows-{task.name}.jsonl"
        answered = answer(
            task,
            engine,
            batch_size=batch_size,
            journal=journal,
            identity={**config, **_computed_by(about), "weights": weights, "data_dir": str(data_dir)},
            share=share,
            shows_bar=shows_bar,
        )
        found = task.results(answered.judged)
        found = found._replace(notes=[*found.notes, *cut_note(answered.judged)])
        runs.append(TaskRun(task, answered, found, config))
        rate = answered.computed / max(answered.seconds, 1e-9)
        logger.info("%s: %d rows in %.1f s (%.1f rows/s)", task.name, answered.computed, answered.seconds, rate)
    results = as_json(runs, about)
    if output_dir is not None and share.rank == 0:
        for path in write_report(output_dir, runs, about):
            logger.info("wrote %s", path)
        for run in runs:
            _remove_journals(Path(output_dir), run.task.name)
    return json.loads(json.dumps(results))


def built_tasks(
    names: Sequence[str],
    tokenizer: Any,
    *,
    data_dir: str | Path | None = None,
    subjects: Sequence[str] | None = None,
    way: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    max_length: int | None = None,
) -> list[Task]:
    """The tasks of these names; their files have been read, so that what is wrong with them shows now.

    Raises:
        ConfigError, DataError: see evaluate.
    """
    if not names:
        raise ConfigError("tasks", names, f"Name one or more of {', '.join(TASKS)}.")
    built = []
    for name in names:
        folder = _folder_of(name, data_dir, alone=len(names) == 1)
        built.append(build_task(name, tokenizer, Options(folder, subjects, num_fewshot, way, limit, max_length)))
    for task in built:
        task.rows()
    return built


def _computed_by(about: dict[str, Any]) -> dict[str, Any]:
    """What of a run decides its figures, besides the task."""
    return {name: about[name] for name in ("model", "tokenizer", "prefix_ids", "max_length", "version")}


def _folder_of(task: str, data_dir: str | Path | None, *, alone: bool) -> Path | None:
    """The folder of a task: DATA_DIR itself, or the one inside it that bears the benchmark's name."""
    if data_dir is None:
        return None
    folder, benchmark = user_path(data_dir), task.partition("-")[0]
    for inside in (folder / benchmark, folder / benchmark / "data"):
        if (inside / "dev").is_dir() or (inside / "test").is_dir() or (inside / "val").is_dir():
            return inside
    if (folder / "data" / "dev").is_dir() and not (folder / "dev").is_dir():
        return folder / "data"
    return folder if alone or not (folder / benchmark).is_dir() else folder / benchmark


def _about(engine: Engine, tokenizer: Any, batch_size: int) -> dict[str, Any]:
    """What `--why` and a reader want to know of a run."""
    encode = tokenizer.vocabulary.encode
    roles = [index for name, index in getattr(tokenizer.vocabulary, "special_ids", {}).items() if name in GLM3_ROLES]
    return {
        "tokenizer": type(tokenizer).__name__,
        "prefix_ids": list(tokenizer.get_prefix_tokens()),
        "mark_ids": encode("[gMASK")[1:],  # the mark written as text; "[" may join what is before
        "role_ids": roles,
        "round_ids": encode("[Round 1]"),
        "max_length": engine.max_length,
        "batch_size": batch_size,
        "version": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _remove_journals(folder: Path, task: str) -> None:
    for path in folder.glob(f".rows-{task}.jsonl*"):
        path.unlink(missing_ok=True)
