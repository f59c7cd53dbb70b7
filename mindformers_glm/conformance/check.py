"""What a check is, and the table of all of them. NumPy alone.

A check computes some arrays on the device in one floating type (`kind`), and the same by an independent formula in
float64. Its `place` is the line of the suite that it vouches for. It `needs` the checks of the parts that it is made
of: when those fail too, they are the ones to look at.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
KINDS = ("float32", "float16", "bfloat16")
# Largest error over the largest wanted number. Float32 leaves room for the order of sums, and none for matmuls that
# round their operands; float16 keeps 11 bits of a number, bfloat16 8.
BOUNDS = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


class Answer(NamedTuple):
    """Arrays by name, as the device and as the formula gave them, and what must be said of how they were got."""

    found: Arrays
    wanted: Arrays
    note: str = ""


class Skipped(Exception):
    """A check cannot run here and says why; that is no failure."""


class Check(NamedTuple):
    """`slack` multiplies the bound: a network adds the errors of many operators. `ranks` are processes it needs."""

    name: str
    place: str
    run: Callable[[str], Answer]
    switch_off: str
    needs: tuple[str, ...]
    kinds: tuple[str, ...]
    slack: float
    ranks: int

    def bound(self, kind: str) -> float:
        """The largest relative error that passes."""
        return BOUNDS[kind] * self.slack


CHECKS: dict[str, Check] = {}


def check(
    name: str,
    *,
    place: str,
    switch_off: str = "nothing: send us the report, and use --device_target CPU meanwhile",
    needs: Sequence[str] = (),
    kinds: Sequence[str] = KINDS[:1],
    slack: float = 1.0,
    ranks: int = 1,
) -> Callable[[Callable[[str], Answer]], Callable[[str], Answer]]:
    """Registers a function kind -> Answer as the check `name`."""

    def register(run: Callable[[str], Answer]) -> Callable[[str], Answer]:
        CHECKS[name] = Check(name, place, run, switch_off, tuple(needs), tuple(kinds), slack, ranks)
        return run

    return register


def all_checks() -> dict[str, Check]:
    """Every check by name, parts before what is made of them."""
    from mindformers_glm.conformance import checks  # noqa: PLC0415 - its files import this one

    for module in sorted(found.name for found in pkgutil.iter_modules(checks.__path__)):
        import_module(f"{checks.__name__}.{module}")
    ordered: dict[str, Check] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for part in CHECKS[name].needs:
                add(part)
            ordered[name] = CHECKS[name]

    for name in CHECKS:
        add(name)
    return ordered
