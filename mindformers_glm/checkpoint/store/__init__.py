"""Checkpoints of a training run: saved, found again, divided among ranks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["CheckpointStore"]


def __getattr__(name: str) -> Any:
    """One of the names above, whose module is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mindformers_glm.checkpoint.store.checkpoints"), name)
