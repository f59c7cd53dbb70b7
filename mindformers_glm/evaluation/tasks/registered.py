"""The table of benchmarks: name -> class. A new one is one module and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.interface import Task


class Options(NamedTuple):
    """What is the same for every task. `limit` counts rows of each subject."""

    data_dir: str | Path | None = None
    subjects: Sequence[str] | None = None
    num_fewshot: int | None = None
    way: str | None = None
    limit: int | None = None
    max_length: int | None = None  # the model's, for what is cut


_HERE = "mindformers_glm.evaluation.tasks"
TASKS: dict[str, str] = {
    "ceval-valid": f"{_HERE}.ceval:CEvalValid",
    "ceval-test": f"{_HERE}.ceval:CEvalTest",
    "cmmlu": f"{_HERE}.cmmlu:CMMLU",
    "mmlu": f"{_HERE}.mmlu:MMLU",
    "ppl": f"{_HERE}.perplexity:Perplexity",
}


def build_task(name: str, tokenizer: Any, options: Options) -> Task:
    """The task of a name, or of a YAML that describes one.

    Raises:
        ConfigError: no such task, or an option it does not have.
    """
    if name.endswith((".yaml", ".yml")):
        from mindformers_glm.evaluation.tasks.described import DescribedTask  # noqa: PLC0415

        return DescribedTask(name, tokenizer, options)
    if name not in TASKS:
        raise unknown_task(name)
    module, _, kind = TASKS[name].partition(":")
    return getattr(import_module(module), kind)(tokenizer, options)


def unknown_task(name: str) -> ConfigError:
    """The error for a task that nobody knows, with the nearest name."""
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    return ConfigError("tasks", name, f"{hint} Known: {', '.join(TASKS)}, or a YAML that describes a task.".strip())
