"""From a name or path to weights under our names, and into a network.

`from mindformers_glm.checkpoint.load import load_into` needs MindSpore; everything else here does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["LoadReport", "adapter_alone", "load_into"]


def __getattr__(name: str) -> Any:
    """One of the names above, whose module is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "into" if name == "load_into" else "filling"
    return getattr(import_module(f"mindformers_glm.checkpoint.load.{home}"), name)
