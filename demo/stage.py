"""One run of this project's programs as a child process: its output goes to a file, its progress to one line."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo.screen import Line, curve, note, paint
from mindformers_glm.messages import say

ROOT = Path(__file__).resolve().parents[1]
_STEP = re.compile(r"step:\[\s*(\d+)/\s*(\d+)\], loss:\s*\[?\s*([\d.]+)")
_EPOCH = re.compile(r"Epoch:\[\s*(\d+)/\s*(\d+)\]")
_EVAL = re.compile(r"Step\[\s*(\d+)/\s*(\d+)\]")
_METRIC = re.compile(r"(rouge-[12l]|bleu-4):\s+([\d.]+)")
_GRACE_SECONDS = 20


class StageFailed(RuntimeError):
    """The child ended with an error; the message ends with its last lines."""


@dataclass
class Outcome:
    """What a run told: losses step by step, metric values, seconds."""

    losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def run_stage(arguments: Sequence[str], log: Path, *, command: bool = False) -> Outcome:
    """Runs `python run_mindformer.py <arguments>`, or a `command` of mindformers-glm; returns what its lines said.

    Raises:
        StageFailed: exit status other than 0.
        KeyboardInterrupt: Ctrl-C; the child has had time to save and has ended.
    """
    program = ["mindformers-glm"] if command else ["python", "run_mindformer.py"]
    note(paint(f"$ {shlex.join([*program, *arguments])}", "2"))
    log.parent.mkdir(parents=True, exist_ok=True)
    started, outcome, line, tail = time.time(), Outcome(), Line(), []
    line.show(say("starting ..."))
    child = subprocess.Popen(
        [sys.executable, *(["-m", "mindformers_glm"] if command else [str(ROOT / "run_mindformer.py")]), *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, text=True, encoding="utf-8", errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        with log.open("w", encoding="utf-8") as file:
            for text in child.stdout or ():
                file.write(text)
                tail = [*tail[-11:], text]
                shown = read_line(text, outcome)
                if shown:
                    line.show(f"{shown}   {time.time() - started:.0f} s")
        status = child.wait()
    except KeyboardInterrupt:
        _stop(child)
        line.end(say("stopped"))
        raise
    outcome.seconds = time.time() - started
    if status:
        line.end(say("failed"))
        raise StageFailed(f"{program[-1]} ended with status {status}; its output is in {log}\n" + "".join(tail))
    line.end(_summary(outcome))
    return outcome


def read_line(text: str, outcome: Outcome) -> str:
    """Takes what a line of output says into `outcome`; the progress to show, or nothing."""
    for name, value in _METRIC.findall(text):
        outcome.metrics[name] = float(value)
    step = _STEP.search(text)
    if step:
        number, total, loss = int(step[1]), int(step[2]), float(step[3])
        outcome.losses.append(loss)
        epoch = _EPOCH.search(text)
        place = f"epoch {epoch[1]}/{epoch[2]}  " if epoch and epoch[2] != "1" else ""
        return f"{place}step {number}/{total}  loss {loss:.3f}  {curve(outcome.losses)}"
    done = _EVAL.search(text)
    return say("evaluating: batch {batch} of {batches}", batch=done[1], batches=done[2]) if done else ""


def _summary(outcome: Outcome) -> str:
    if outcome.metrics:
        values = "  ".join(f"{name} {value:.2f}" for name, value in outcome.metrics.items())
        return f"{values}   ({outcome.seconds:.0f} s)"
    if outcome.losses:
        first, last = outcome.losses[0], outcome.losses[-1]
        shape = curve(outcome.losses)
        spent = say("{steps} steps in {seconds:.0f} s", steps=len(outcome.losses), seconds=outcome.seconds)
        return f"loss {first:.2f} -> {last:.2f}  {shape}  {spent}"
    return say("done in {seconds:.0f} s", seconds=outcome.seconds)


def _stop(child: subprocess.Popen) -> None:
    """Passes Ctrl-C on, waits while the child saves, and ends it when that takes too long."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()
