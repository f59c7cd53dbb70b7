"""Several processes for one command: this one is rank 0 and keeps the terminal, the others work for it.

`--tp_size N` starts them here, as MindSpore's cluster of a scheduler and N workers on this machine. Under a launcher
(msrun, several servers) the processes are there already and nothing is started.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mindformers_glm.cli.options import whole
from mindformers_glm.cli.rank_watch import last_line
from mindformers_glm.runtime import rank_size

MOST = 64
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_others: list[tuple[subprocess.Popen, Path]] = []  # what `start` started, and where each writes


def add_tp_size(parser: argparse.ArgumentParser) -> None:
    """The option `--tp_size`."""
    parser.add_argument(
        "--tp_size", type=whole(1, MOST), default=1, help="processes (devices) that share the network, each a part (1)"
    )


def start(size: int, command: str, words: Sequence[str]) -> None:
    """Makes this process rank 0 of `size`, and starts the scheduler and the other ranks with the same words.

    Their output goes to files in a temporary folder, whose end is shown when one of them fails. They end with this
    process, however it ends.
    """
    if size == 1 or rank_size() > 1:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.setdefault("GLOG_v", "3")
    logs = tempfile.TemporaryDirectory(prefix="mindformers-glm-ranks-")
    shared = {
        **{"MS_WORKER_NUM": str(size), "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port)},
        "OMP_NUM_THREADS": _threads(size),
    }
    program = [sys.executable, "-m", "mindformers_glm", command, *words]
    scheduler = [sys.executable, "-c", "from mindformers_glm.runtime import serve_as_scheduler as s; s()"]
    places = [Path(logs.name, "scheduler.log"), *(Path(logs.name, f"rank_{rank}.log") for rank in range(1, size))]
    children = [_child(scheduler, {**os.environ, **shared, "MS_ROLE": "MS_SCHED"}, places[0])]
    for rank in range(1, size):
        own = {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank), "DEVICE_ID": str(rank)}
        children.append(_child(program, {**os.environ, **shared, **own}, places[rank]))
    os.environ.update({**shared, "MS_ROLE": "MS_WORKER", "MS_NODE_ID": "0", "RANK_ID": "0", "DEVICE_ID": "0"})
    _others[:] = zip(children, places, strict=True)
    atexit.register(_end, children, logs)
    watched = [f"{_name(number)}:{child.pid}:{log}" for number, (child, log) in enumerate(_others)]
    words = [sys.executable, "-m", "mindformers_glm.cli.rank_watch", str(os.getpid()), *watched]
    watch = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    atexit.register(watch.kill)  # before the others are told to end


def lost() -> str | None:
    """Which of the processes that `start` started has ended, with the last line it wrote; None while all run.

    Work of rank 0 then waits for ever.
    """
    for number, (child, log) in enumerate(_others):
        if child.poll() is not None:
            return _name(number, last_line(log))
    return None


def _name(number: int, last_line: str = "") -> str:
    """What people call a process of `_others`, the scheduler first and then the ranks from 1, with its last line."""
    return f"rank {number}{last_line}" if number else f"the scheduler{last_line}"


def _threads(size: int) -> str:
    return os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or 1) // size, 1))


def _child(command: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for rank 0, which ends a reply and not the program
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )


def _end(children: Sequence[subprocess.Popen], logs: tempfile.TemporaryDirectory) -> None:
    """Waits a little for the children, which have been told to end; then ends them."""
    for child in (*children[1:], *children[:1]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=20)
        if child.poll() is None:
            child.kill()
            child.wait()
    for number, (child, log) in enumerate(_others):
        if number and child.returncode not in (0, -signal.SIGKILL):
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            print(f"{_name(number)} ended with status {child.returncode}:", *tail, sep="\n", file=sys.stderr)
    logs.cleanup()
