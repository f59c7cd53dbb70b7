"""Processes of this machine as /proc tells of them: who they are, how they ended, signals to them. For supervise.py."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Process(NamedTuple):
    """A process told apart from a later one with the same number by its start time."""

    pid: int
    started: str


def shell_status(code: int) -> int:
    """Exit status as a shell reports it: 128 + signal for a process that a signal ended."""
    return 128 - code if code < 0 else code


def process_stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; [] when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def ended_status(process: Process) -> int | None:
    """Exit status, as a shell counts it, of a process that has ended and whose parent has not asked yet; else None."""
    fields = process_stat(process.pid)
    if not fields or fields[0] not in "ZX" or fields[19] != process.started:
        return None
    code = int(fields[49])
    return 128 + (code & 0x7F) if code & 0x7F else code >> 8


def identify(pid: int) -> Process | None:
    """The living process with this number."""
    fields = process_stat(pid)
    return Process(pid, fields[19]) if fields and fields[0] not in "ZX" else None


def is_alive(process: Process) -> bool:
    """False once it has ended, reaped or not."""
    return identify(process.pid) == process


def children(parent: int) -> list[Process]:
    """Living processes that `parent` started."""
    found = []
    for entry in os.listdir("/proc"):
        fields = process_stat(int(entry)) if entry.isdigit() else []
        if fields and int(fields[1]) == parent and fields[0] not in "ZX":
            found.append(Process(int(entry), fields[19]))
    return found


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty when it cannot be read."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def send(process: Process, number: int) -> None:
    """Signals a process and everything in its group, which is its own."""
    if is_alive(process):
        try:
            os.killpg(process.pid, number) if os.getpgid(process.pid) == process.pid else os.kill(process.pid, number)
        except ProcessLookupError:
            return


def start(command: list[str], log: Path, *, death_signal: int, **environment: str) -> subprocess.Popen:
    """Starts a command in a session of its own, output into `log`; it gets `death_signal` if this process is killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_symlink():
        log.unlink()
    with open(log, "wb") as stream:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, death_signal),
        )
