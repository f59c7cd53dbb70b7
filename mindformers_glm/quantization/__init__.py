"""Weights of 8 or 4 bits: schemes, rounding, calibration, and what they cost.

What needs MindSpore is imported when it is asked for; the table of schemes is not.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["LayerError", "QuantizationReport", "quantize_model", "report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("mindformers_glm.quantization.quantize"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
