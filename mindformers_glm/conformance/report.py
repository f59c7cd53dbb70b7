"""What to send to us: conformance.json and conformance.txt."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.conformance.outcome import Outcome, suspects
from mindformers_glm.files import write_text
from mindformers_glm.version import __version__

_VARIABLES = ("GLM_KERNELS", "GLM_CONFORMANCE_FAULT")


def about(target: str, outcomes: Sequence[Outcome], machine: Mapping[str, Any]) -> dict[str, Any]:
    """The content of conformance.json."""
    failed = [outcome for outcome in outcomes if outcome.state == "fail"]
    return {
        "mindformers_glm": __version__,
        "device_target": target,
        "machine": {"system": platform.machine(), "python": platform.python_version(), **machine},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "counts": {state: sum(one.state == state for one in outcomes) for state in ("ok", "fail", "skipped")},
        "look_at": [{"place": check.place, "switch_off": check.switch_off} for check in suspects(outcomes)],
        "verified_on": target if not failed else None,
        "results": [outcome.plain() for outcome in outcomes],
    }


def line(outcome: Outcome) -> str:
    """One outcome on the screen."""
    head = f"{outcome.state:7} {outcome.check.name + ' ' + outcome.kind:32}"
    if not outcome.drifts:
        return f"{head} {outcome.fault}"
    return f"{head} error {outcome.worst:.1e} of {outcome.check.bound(outcome.kind):.0e}  {outcome.check.place}"


def text(content: Mapping[str, Any]) -> str:
    """The content for people."""
    counts = content["counts"]
    lines = [
        f"Conformance of mindformers_glm {content['mindformers_glm']} on {content['device_target']}: "
        f"{counts['ok']} ok, {counts['fail']} failed, {counts['skipped']} skipped",
        "  ".join(f"{name} {value}" for name, value in {**content["machine"], **content["environment"]}.items()),
        "",
        "An error is the largest difference over the largest number wanted, beside float64 formulas and beside numbers",
        "recorded on a CPU (float32).",
        "",
    ]
    for row in content["results"]:
        error = row["max_relative_error"]
        shown = f"{error:.1e}" if isinstance(error, float) else str(error)
        lines.append(
            f"{row['state']:7} {row['check']:24} {row['dtype']:9} {shown:>8} of {row['bound']:.0e}  {row['place']}"
        )
        if row["fault"] or (row["note"] and row["state"] != "ok"):
            lines.append(f"        {'; '.join(part for part in (row['fault'], row['note']) if part)}")
    drifts = [row for row in content["results"] if row["check"] == "network" and row["drift"]]
    if drifts:
        lines += ["", "Drift layer by layer (relative, in the mean):"]
        for row in drifts:
            parts = "  ".join(f"{drift['name']} {_number(drift['mean'])}" for drift in row["drift"])
            lines.append(f"  {row['dtype']:9} {parts}")
    if content["look_at"]:
        lines += ["", "Look at (what else failed is made of these):"]
        for row in content["look_at"]:
            lines += [f"  {row['place']}", f"    switch off: {row['switch_off']}"]
        lines += ["", "Please send conformance.json and conformance.txt to us."]
    if content["device_target"] == "CPU":
        lines += ["", "This was a CPU. Nothing here vouches for an Ascend: no run of this kit on one is known to us."]
    return "\n".join(lines) + "\n"


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Both files; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "conformance.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "conformance.txt", text(content))


def _number(value: float | str) -> str:
    return f"{value:.1e}" if isinstance(value, float) else value
