"""Programs that print a JSON object as their last line, run one at a time in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mindformers_glm.benchmark.contention import Contention
from mindformers_glm.benchmark.settings import Settings
from mindformers_glm.errors import UserError

_WORKER = "mindformers_glm.benchmark.worker"


class Finished(NamedTuple):
    """What a program left: the objects it printed, the most memory it held, and how much others worked meanwhile."""

    rows: list[dict[str, Any]]
    peak_bytes: int
    others_share: float | None


def measure(settings: Settings) -> dict[str, Any]:
    """The figures of one run in a fresh process, on the first `threads` CPUs of this one.

    Raises:
        UserError: what the settings ask for cannot be done; the message is the worker's.
    """
    given = {**settings.plain(), "begun": time.monotonic()}
    command = [sys.executable, "-m", _WORKER, json.dumps(given)]
    finished = run_program(command, threads=settings.threads)
    return {**finished.rows[-1], "others_share": finished.others_share}


def run_program(
    command: Sequence[str], *, threads: int | None = None, environment: Mapping[str, str] | None = None
) -> Finished:
    """What a program printed, once it has ended.

    Raises:
        UserError: it could not be started, failed, or printed no JSON object.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        contention = Contention()
        try:
            with _on_cpus(threads):
                process = subprocess.Popen(
                    command, stdout=out, stderr=errors, env={**os.environ, **(environment or {})}
                )
        except OSError as error:
            fault = error.strerror or error
            raise UserError(f"{command[0]}: {fault}. It was to run {' '.join(command[1:3])}") from error
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            process.wait()
            raise
        others = contention.share(usage.ru_utime + usage.ru_stime)
        printed, complaints = (_text(file) for file in (out, errors))
    if process.returncode:
        raise UserError(_fault(command, process.returncode, complaints or printed))
    rows = [row for row in map(_object, printed.splitlines()) if row is not None]
    if not rows:
        raise UserError(f"{_name(command)} printed no line with a JSON object")
    return Finished(rows, usage.ru_maxrss * 1024, others)


@contextlib.contextmanager
def _on_cpus(count: int | None) -> Iterator[None]:
    """A process that is started inside has the first `count` CPUs; this thread gets its own back."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _fault(command: Sequence[str], status: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "without a word"
    if last.startswith("error: "):
        return last.removeprefix("error: ")
    return f"{_name(command)} ended with status {status}: {last}"


def _name(command: Sequence[str]) -> str:
    words = command[2:3] if command[1] == "-m" else command[1:2]
    return " ".join(words)
