"""Benchmarks, one module each, found by name in `TASKS`."""

from mindformers_glm.evaluation.tasks.registered import TASKS, build_task

__all__ = ["TASKS", "build_task"]
