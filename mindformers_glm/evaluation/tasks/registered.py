"""The table of benchmarks: name -> class. A new one is one module and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mindformers_glm.errors import ConfigError, nearest
from mindformers_glm.evaluation.interface import Options, Task

_HERE = "mindformers_glm.evaluation.tasks"
TASKS: dict[str, str] = {
    "ceval-valid": f"{_HERE}.ceval:CEvalValid",
    "ceval-test": f"{_HERE}.ceval:CEvalTest",
    "cmmlu": f"{_HERE}.cmmlu:CMMLU",
    "mmlu": f"{_HERE}.mmlu:MMLU",
    "adgen": f"{_HERE}.adgen:ADGen",
    "ppl": f"{_HERE}.perplexity:Perplexity",
}


def build_task(name: str, tokenizer: Any, options: Options) -> Task:
    """The task of a name, or of a YAML that describes one.

    Raises:
        ConfigError: no such task, or an option it does not have.
    """
    if name.endswith((".yaml", ".yml")):
        return import_module(f"{_HERE}.described").DescribedTask(name, tokenizer, options)
    if name not in TASKS:
        raise unknown_task(name)
    module, _, kind = TASKS[name].partition(":")
    return getattr(import_module(module), kind)(tokenizer, options)


def unknown_task(name: str, key: str = "tasks") -> ConfigError:
    """The error for a task that nobody knows, with the nearest name."""
    near = nearest(name, TASKS)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    return ConfigError(key, name, f"{hint} Known: {', '.join(TASKS)}, or a YAML that describes a task.".strip())
