"""Runs checks in processes of their own: one that dies or hangs costs its own check and no other."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.conformance import worker
from mindformers_glm.conformance.check import Answer, Check
from mindformers_glm.conformance.outcome import Outcome, judge
from mindformers_glm.conformance.recorded import recorded

MODULE = "mindformers_glm.conformance.worker"
_SCHEDULER = "from mindformers_glm.runtime import serve_as_scheduler as s; s()"
_LOG_LEVEL = "GLOG_v"
_LOG_LINES = 3
_PARTING_SECONDS = 10
Task = tuple[Check, str]


class Result(NamedTuple):
    """Outcomes in the order of the checks, and the answers in float32 by check."""

    outcomes: list[Outcome]
    answers: dict[str, Answer]


def run(
    tasks: Sequence[Task], target: str, *, seconds: float = 300.0, told: Callable[[Outcome], None] = lambda one: None
) -> Result:
    """Every check on the device `target`; each may take `seconds`. `told` hears of each outcome when it is there."""
    result = Result([], {})
    for ranks in sorted({check.ranks for check, _ in tasks}):
        waiting = [task for task in tasks if task[0].ranks == ranks]
        while waiting:
            with tempfile.TemporaryDirectory(prefix="mindformers-glm-conformance-") as folder:
                waiting = _Round(Path(folder), target, waiting, ranks, seconds, result, told).run()
    return result


class _Round(NamedTuple):
    """One start of the processes: they do the tasks in order until they end, die or say nothing for `seconds`."""

    folder: Path
    target: str
    tasks: list[Task]
    ranks: int
    seconds: float
    result: Result
    told: Callable[[Outcome], None]

    def run(self) -> list[Task]:
        """The tasks that are left, after the one that the process died of."""
        waiting, begun = list(self.tasks), False
        with self._process() as process:
            lines = _lines(process)
            while True:
                try:
                    line = lines.get(timeout=self.seconds)
                except queue.Empty:
                    reason = f"no result in {self.seconds:g} s: the device or its driver hangs"
                    break
                if line is None:
                    process.wait()
                    reason = f"the process ended with status {process.returncode}{_tail(self.folder / 'log.txt')}"
                    break
                begun = True
                self._take(waiting)
        self._take(waiting)
        guilty = waiting[:1] if begun else list(waiting)  # what ends it before the first check ends it before every one
        for check, kind in guilty:
            self._add(Outcome(check, kind, "fail", fault=reason))
        return waiting[len(guilty) :]

    def _take(self, waiting: list[Task]) -> None:
        """Takes results from the front as far as they are there."""
        while waiting:
            check, kind = waiting[0]
            answer, refusal = (self.folder / f"{check.name}:{kind}.{end}" for end in ("npz", "txt"))
            if answer.exists():
                found = worker.load(answer)
                if kind == "float32":
                    self.result.answers[check.name] = found
                self._add(judge(check, kind, found, recorded()))
            elif refusal.exists():
                word, _, why = refusal.read_text(encoding="utf-8").partition("\n")
                self._add(Outcome(check, kind, "skipped" if word == worker.SKIPPED else "fail", fault=why))
            else:
                return
            del waiting[0]

    def _add(self, outcome: Outcome) -> None:
        self.result.outcomes.append(outcome)
        self.told(outcome)

    @contextmanager
    def _process(self) -> Iterator[subprocess.Popen]:
        """The first process, with the others of its group; all end with the block."""
        names = [f"{check.name}:{kind}" for check, kind in self.tasks]
        words = [sys.executable, "-m", MODULE, str(self.folder), self.target, *names]
        environment = {_LOG_LEVEL: "3", **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        running: list[subprocess.Popen] = []

        def start(words: Sequence[str], name: str, **more: str) -> None:
            with (self.folder / name).open("wb") as log:
                running.append(subprocess.Popen(words, env={**environment, **more}, stdout=log, stderr=log))

        try:
            if self.ranks > 1:
                environment |= _cluster(self.ranks)
                start([sys.executable, "-c", _SCHEDULER], "scheduler.log", MS_ROLE="MS_SCHED")
                for rank in range(1, self.ranks):
                    start(words, f"rank_{rank}.log", **_rank(rank))
                environment |= _rank(0)
            with (self.folder / "log.txt").open("wb") as errors:
                first = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=errors)
            running.insert(0, first)
            yield first
        finally:
            for place, process in enumerate(running):
                _end(process, patient=place > 0)
            if running and running[0].stdout:
                running[0].stdout.close()


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


def _lines(process: subprocess.Popen) -> queue.SimpleQueue[bytes | None]:
    """What a process prints, as it comes, and None at the end."""
    found: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in process.stdout or ():
            found.put(line)
        found.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return found


def _end(process: subprocess.Popen, *, patient: bool) -> None:
    try:
        process.wait(timeout=_PARTING_SECONDS if patient else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f": {' | '.join(lines[-_LOG_LINES:])}"[:600] if lines else ""
