"""What came of a check: errors beside the formula and beside recorded numbers, and what that means. NumPy alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.conformance.check import CHECKS, Answer, Check

_HALF_PRODUCTS = 5e-3  # a float32 result that is wrong by less than this, and by more than its bound, was rounded


class Drift(NamedTuple):
    """The error of one array: largest absolute, largest over the largest wanted number, and relative in the mean.

    `recorded` is the second beside the numbers that a CPU gave; None where none are recorded.
    """

    name: str
    absolute: float
    relative: float
    mean: float
    recorded: float | None


class Outcome(NamedTuple):
    """A check in one kind: `state` is ok, fail or skipped."""

    check: Check
    kind: str
    state: str
    drifts: tuple[Drift, ...] = ()
    fault: str = ""  # why it failed without numbers, or was skipped
    note: str = ""

    @property
    def worst(self) -> float:
        """The largest relative error, of the formula and of the recorded numbers; 0 without numbers."""
        return max((max(drift.relative, drift.recorded or 0.0) for drift in self.drifts), default=0.0)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "check": self.check.name,
            "dtype": self.kind,
            "place": self.check.place,
            "state": self.state,
            "bound": self.check.bound(self.kind),
            "max_relative_error": _finite(self.worst),
            "max_absolute_error": _finite(max((drift.absolute for drift in self.drifts), default=0.0)),
            "drift": [
                {key: _finite(value) if isinstance(value, float) else value for key, value in drift._asdict().items()}
                for drift in self.drifts
            ],
            "fault": self.fault,
            "note": self.note,
            "switch_off": self.check.switch_off if self.state == "fail" else "",
        }


def judge(check: Check, kind: str, answer: Answer, recorded: Mapping[str, np.ndarray]) -> Outcome:
    """Compares an answer with its formula, and with what is recorded of the check in float32.

    Recorded numbers are held beside float32 only; they come from another order of sums, so their bound is the same.
    """
    drifts, bound = [], check.bound(kind)
    for name, wanted in answer.wanted.items():
        found = answer.found.get(name)
        if found is None or found.shape != wanted.shape:
            shape = "nothing" if found is None else f"shape {found.shape}"
            return Outcome(check, kind, "fail", fault=f"{name}: {shape} instead of {wanted.shape}", note=answer.note)
        known = recorded.get(key(check.name, name)) if kind == "float32" else None
        beside = None if known is None else _errors(found, known.astype(np.float64))[1]
        drifts.append(Drift(name, *_errors(found, wanted), beside))
    outcome = Outcome(check, kind, "ok", tuple(drifts), note=answer.note)
    if not outcome.worst <= bound:
        return outcome._replace(state="fail", note=_hint(outcome, kind))
    return outcome


def key(check: str, name: str) -> str:
    """Where the numbers of an array are recorded."""
    return f"{check}/{name}"


def suspects(outcomes: Iterable[Outcome]) -> list[Check]:
    """The failed checks none of whose parts failed: where to look."""
    failed = {outcome.check.name: outcome.check for outcome in outcomes if outcome.state == "fail"}
    return [check for check in failed.values() if not any(part in failed for part in _parts(check))]


def _parts(check: Check) -> set[str]:
    found: set[str] = set()
    waiting = list(check.needs)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += CHECKS[name].needs
    return found


def _errors(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float, float]:
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf"), float("inf"), float("inf")
    apart, size = np.abs(found - wanted), np.abs(wanted)
    largest = size.max(initial=0.0) or 1.0
    return (
        float(apart.max(initial=0.0)),
        float(apart.max(initial=0.0) / largest),
        float(np.sqrt(np.square(apart).sum() / (np.square(wanted).sum() or 1.0))),
    )


def _hint(outcome: Outcome, kind: str) -> str:
    formula = max(drift.relative for drift in outcome.drifts)
    said = [outcome.note] if outcome.note else []
    if kind == "float32" and outcome.check.bound(kind) < outcome.worst < _HALF_PRODUCTS:
        said.append("an error of this size comes from matmuls or sums in float16, bfloat16 or HF32")
    if formula <= outcome.check.bound(kind):
        said.append("the formula agrees and the recorded numbers do not: inputs or recorded file differ")
    return "; ".join(said)


def _finite(value: float) -> float | str:
    return value if np.isfinite(value) else str(value)
