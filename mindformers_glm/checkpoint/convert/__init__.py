"""One form of a checkpoint as another: plans, their carrying out, merging, looking and verifying."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["inv_freq_bits", "run_plan", "save_directory"]


def __getattr__(name: str) -> Any:
    """One of the names above, whose module is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mindformers_glm.checkpoint.convert.run"), name)
