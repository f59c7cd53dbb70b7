"""Runs checks in processes of their own: one that dies or hangs costs its own check and no other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.conformance import worker
from mindformers_glm.conformance.check import Answer, Check
from mindformers_glm.conformance.outcome import Outcome, judge
from mindformers_glm.conformance.recorded import recorded

_MODULE = "mindformers_glm.conformance.worker"
_SCHEDULER = "from mindformers_glm.runtime import serve_as_scheduler as s; s()"
_LOG_LINES = 3
Task = tuple[Check, str]


class Result(NamedTuple):
    """Outcomes in the order of the checks, and the answers in float32 by check."""

    outcomes: list[Outcome]
    answers: dict[str, Answer]


def run(
    tasks: Sequence[Task], target: str, *, seconds: float = 300.0, told: Callable[[Outcome], None] = lambda one: None
) -> Result:
    """Every check on the device `target`; each may take `seconds`. `told` hears of each outcome."""
    result = Result([], {})
    with tempfile.TemporaryDirectory(prefix="mindformers-glm-conformance-") as folder:
        for ranks in sorted({check.ranks for check, _ in tasks}):
            waiting = [task for task in tasks if task[0].ranks == ranks]
            while waiting:
                reason = _processes(Path(folder), target, waiting, ranks, seconds)
                waiting = _collect(Path(folder), waiting, reason, result, told)
    return result


def _collect(
    folder: Path, tasks: Sequence[Task], reason: str, result: Result, told: Callable[[Outcome], None]
) -> list[Task]:
    """Takes what was left of each task; the first one without a result is what the process died of."""
    left: list[Task] = []
    for check, kind in tasks:
        stem = folder / f"{check.name}:{kind}"
        answer, refusal = stem.with_name(stem.name + ".npz"), stem.with_name(stem.name + ".txt")
        if left:
            left.append((check, kind))
            continue
        if answer.exists():
            found = worker.load(answer)
            outcome = judge(check, kind, found, recorded())
            if kind == "float32":
                result.answers[check.name] = found
        elif refusal.exists():
            word, _, why = refusal.read_text(encoding="utf-8").partition("\n")
            outcome = Outcome(check, kind, "skipped" if word == worker.SKIPPED else "fail", fault=why)
        elif reason is not None:
            outcome = Outcome(check, kind, "fail", fault=reason)
            reason = None
        else:
            left.append((check, kind))
            continue
        result.outcomes.append(outcome)
        told(outcome)
    return left


def _processes(folder: Path, target: str, tasks: Sequence[Task], ranks: int, seconds: float) -> str:
    """Runs the tasks in `ranks` processes until they end, die or say nothing for `seconds`; how they ended."""
    words = [sys.executable, "-m", _MODULE, str(folder), target, *(f"{check.name}:{kind}" for check, kind in tasks)]
    environment = {**os.environ, "GLOG_v": os.environ.get("GLOG_v", "3"), "PYTHONPATH": os.pathsep.join(sys.path)}
    log = folder / "log.txt"
    others: list[subprocess.Popen] = []
    if ranks > 1:
        environment |= _cluster(ranks)
        scheduler = [sys.executable, "-c", _SCHEDULER]
        others.append(_start(scheduler, {**environment, "MS_ROLE": "MS_SCHED"}, folder / "scheduler.txt"))
        for rank in range(1, ranks):
            others.append(_start(words, {**environment, **_rank(rank)}, folder / f"rank_{rank}.txt"))
        environment |= _rank(0)
    try:
        with log.open("wb") as errors:
            process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=errors)
        silent = _wait(process, seconds)
    finally:
        for other in others:
            _end(other)
    if silent:
        return f"no result in {seconds:g} s: the device or its driver hangs"
    return f"the process ended with status {process.returncode}{_tail(log)}"


def _cluster(ranks: int) -> Mapping[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "MS_WORKER_NUM": str(ranks),
        "MS_SCHED_HOST": "127.0.0.1",
        "MS_SCHED_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def _rank(rank: int) -> Mapping[str, str]:
    return {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank), "DEVICE_ID": str(rank)}


def _start(words: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen:
    with log.open("wb") as output:
        return subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _wait(process: subprocess.Popen, seconds: float) -> bool:
    """Waits for the end; True when the process was killed because it said nothing for so long."""
    heard = threading.Event()

    def listen() -> None:
        for _ in process.stdout:
            heard.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    while True:
        try:
            process.wait(timeout=seconds)
            listener.join()
            return False
        except subprocess.TimeoutExpired:
            if not heard.is_set():
                _end(process)
                return True
            heard.clear()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen) -> None:
    try:
        process.wait(timeout=0 if process.stdout else 10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f": {' | '.join(lines[-_LOG_LINES:])}"[:600] if lines else ""
