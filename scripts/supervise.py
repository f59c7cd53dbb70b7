"""Starts the processes of a job, shows one log, and ends them all together: when one fails, or at Ctrl-C.

    supervise.py ranks --ranks 0:4,1:5 --log 'DIR/rank_{rank}/mindformer.log' -- COMMAND...
    supervise.py msrun --first_rank 0 --log_dir DIR --log '...' -- MSRUN_OPTIONS... SCRIPT ARGUMENTS...

`ranks` starts one process for each rank:device pair (RANK_ID and DEVICE_ID are set). `msrun` starts MindSpore's own
launcher and watches its workers: msrun alone waits half a minute for its scheduler after a failure, answers Ctrl-C by
killing workers that are saving and with exit status 0, and leaves workers behind when it is killed itself.
The exit status is 0, or that of the first rank that failed, or 128 + the signal that ended the job.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TypeVar

from processes import Process, children, ended_status, environment_of, identify, is_alive, send, shell_status, start

_Rank = TypeVar("_Rank")
_TICK = 0.2
_STOP_SECONDS = 60.0  # how long ranks may save after Ctrl-C, unless MF_STOP_SECONDS says otherwise
_TERM_SECONDS = 5.0
_LAST_LINES = 20
_FAILURE = re.compile(r"Worker process (\d+) exit with exception. Error code: (-?\d+)")
_SCHEDULER_FAILURE = re.compile(r"Scheduler process (\d+) exit with exception")


class Failure(NamedTuple):
    """What failed first (`rank 1`, `the scheduler`), its exit status as a shell counts it, and its log."""

    who: str
    status: int
    log: Path | None


def first_of(codes: dict[_Rank, int | None]) -> tuple[_Rank, int] | tuple[None, None]:
    """Who failed first, and its status as a shell counts it, among exit codes that were seen at the same moment.

    One that a signal ended goes before one that ended by itself: a rank whose neighbour has been killed ends with an
    error of its own, and may do so before anybody looks.
    """
    failed = {rank: shell_status(code) for rank, code in codes.items() if code}
    if not failed:
        return None, None
    rank = next((rank for rank, status in failed.items() if status > 128), next(iter(failed)))
    return rank, failed[rank]


class Ranks:
    """One process for each rank and device, as a rank table lists them."""

    def __init__(self, pairs: dict[int, int], log: str, command: list[str]) -> None:
        self.logs = {rank: Path(log.replace("{rank}", str(rank))) for rank in pairs}
        self._running: dict[int, subprocess.Popen] = {}
        for rank, device in pairs.items():
            print(f"rank {rank} on device {device}: log {self.logs[rank]}", flush=True)
            self._running[rank] = start(
                command, self.logs[rank], death_signal=signal.SIGTERM, RANK_ID=str(rank), DEVICE_ID=str(device)
            )

    def finished(self) -> bool:
        """True when every rank has ended."""
        return all(process.poll() is not None for process in self._running.values())

    def failure(self) -> Failure | None:
        """The first rank that ended with a status other than 0."""
        rank, status = first_of({rank: process.poll() for rank, process in self._running.items()})
        return None if status is None else Failure(f"rank {rank}", status, self.logs[rank])

    def hold(self) -> None:
        """Nothing beside the ranks could interfere with their end."""

    def signal(self, number: int) -> None:
        """Sends a signal to every rank that still runs."""
        for process in self._running.values():
            found = identify(process.pid) if process.poll() is None else None
            if found:
                send(found, number)

    def ranks_alive(self) -> bool:
        """True while a rank runs."""
        return not self.finished()

    def release(self) -> None:
        """Nothing is left but the ranks."""


class Msrun:
    """The workers and the scheduler of MindSpore's launcher."""

    def __init__(self, first_rank: int, workers: int, log_dir: Path, log: str, command: list[str]) -> None:
        self.logs = {rank: Path(log.replace("{rank}", str(rank))) for rank in range(first_rank, first_rank + workers)}
        self._own_log = log_dir / "msrun.log"
        self._scheduler_log = log_dir / "scheduler.log"
        self._workers: dict[Process, int | None] = {}
        self._schedulers: set[Process] = set()
        for rank, path in self.logs.items():
            print(f"rank {rank}: log {path}", flush=True)
            self._link(path, log_dir / f"worker_{rank}.log")
        launcher = [sys.executable, "-m", "mindspore.parallel.cluster.run"]
        hidden = "--tail_worker_log=1000000"  # no such worker: this process shows a log itself
        self._launcher = start([*launcher, hidden, *command], self._own_log, death_signal=signal.SIGINT)

    @staticmethod
    def _link(path: Path, target: Path) -> None:
        """Makes the documented place of a rank's log lead to the file that msrun writes."""
        target.unlink(missing_ok=True)
        if path.absolute() != target.absolute():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(os.path.relpath(target, path.parent))

    def _look(self) -> None:
        known = self._schedulers | set(self._workers)
        for process in children(self._launcher.pid):
            if process not in known:
                environment = environment_of(process.pid)
                if environment.get("MS_ROLE") == "MS_WORKER":
                    rank = environment.get("MS_NODE_ID")
                    self._workers[process] = int(rank) if rank else None
                    tell(f"rank {rank}: process {process.pid}")
                elif environment.get("MS_ROLE") == "MS_SCHED":
                    self._schedulers.add(process)
                    tell(f"the scheduler: process {process.pid}")

    def finished(self) -> bool:
        """True when msrun has ended."""
        self._look()
        return self._launcher.poll() is not None

    def failure(self) -> Failure | None:
        """What failed first: the scheduler, after whose death ranks fail too, a rank, or msrun itself.

        msrun looks at its scheduler only when every worker has ended, and tells the worker that it looks at first.
        """
        for process in self._schedulers:
            if ended_status(process):
                return self._scheduler_failure(ended_status(process))
        process, status = first_of({process: ended_status(process) for process in self._workers})
        if status is not None:
            return self._worker_failure(self._workers[process], status)
        text = self._own_log.read_text(errors="replace") if self._own_log.exists() else ""
        match = _FAILURE.search(text)
        if match:
            ranks = {process.pid: rank for process, rank in self._workers.items()}
            return self._worker_failure(ranks.get(int(match.group(1))), shell_status(int(match.group(2))))
        if self._launcher.poll():
            status = shell_status(self._launcher.returncode)
            return (
                self._scheduler_failure(status)
                if _SCHEDULER_FAILURE.search(text)
                else self._worker_failure(None, status)
            )
        return None

    def _scheduler_failure(self, status: int) -> Failure:
        return Failure("the scheduler", status, self._scheduler_log)

    def _worker_failure(self, rank: int | None, status: int) -> Failure:
        if rank is None:
            return Failure("the launcher", status, self._own_log)
        return Failure(f"rank {rank}", status, self.logs.get(rank))

    def hold(self) -> None:
        """Stops msrun: it would kill workers that are still saving as soon as one has ended."""
        self._look()
        if self._launcher.poll() is None:
            os.kill(self._launcher.pid, signal.SIGSTOP)

    def signal(self, number: int) -> None:
        """Sends a signal to every worker that still runs."""
        for process in self._workers:
            send(process, number)

    def ranks_alive(self) -> bool:
        """True while a worker runs."""
        return any(is_alive(process) for process in self._workers)

    def release(self) -> None:
        """Ends the scheduler and msrun itself."""
        for process in self._schedulers:
            send(process, signal.SIGKILL)
        if self._launcher.poll() is None:
            self._launcher.kill()
        self._launcher.wait()


class Console:
    """Copies what a log gains to the standard output."""

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, 0

    def show(self) -> None:
        """Prints what has been written since the last call."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as stream:
            stream.seek(self._place)
            text = stream.read()
            self._place = stream.tell()
        try:
            sys.stdout.buffer.write(text)
            sys.stdout.flush()
        except OSError:  # the terminal or the reader has gone: the logs are there all the same
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def arrived(signals: list[int], number: int) -> None:
    """Notes a signal. A closing terminal sends SIGHUP more than once, and systems send it beside SIGTERM: it ends the
    job, and never insists.
    """
    if not signals or (number != signal.SIGHUP and signals[0] != signal.SIGHUP):
        signals.append(number)
    elif number != signal.SIGHUP:
        signals[0] = number  # from now on a further one insists


def stop_seconds() -> float:
    """How long ranks may save after Ctrl-C: MF_STOP_SECONDS, or a minute."""
    text = os.environ.get("MF_STOP_SECONDS", "").strip() or str(_STOP_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        sys.exit(f"supervise.py: MF_STOP_SECONDS: got {text!r}. Write a number of seconds, up to 86400")
    return seconds


def wait_for_end(job: Ranks | Msrun, seconds: float, impatient: list[int]) -> bool:
    """True when every rank ended within the time; a further signal in `impatient` ends the waiting."""
    deadline, already = time.monotonic() + seconds, len(impatient)
    while time.monotonic() < deadline and len(impatient) == already:
        if not job.ranks_alive():
            return True
        time.sleep(_TICK)
    return False


def end_all(job: Ranks | Msrun, signals: list[int], *, gently: bool) -> None:
    """Ends every process of the job; `gently` lets the ranks answer an interrupt and save first."""
    job.hold()
    steps = ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _TERM_SECONDS))
    for number, seconds in (((signal.SIGINT, stop_seconds()),) if gently else ()) + steps:
        job.signal(number)
        if wait_for_end(job, seconds, signals):
            break
    job.release()


def report(failure: Failure) -> None:
    """Names what failed first, its log, and the end of it."""
    place = f" Log: {failure.log}" if failure.log else ""
    complain(f"\n{failure.who} ended with exit status {failure.status}; the job is ended.{place}")
    if failure.log and failure.log.exists():
        for line in failure.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]:
            complain(f"  | {line}")


def tell(text: str) -> None:
    """Writes to the standard output, if there still is one."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def complain(text: str) -> None:
    """Writes to the standard error, if there still is one."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def watch(job: Ranks | Msrun, console: Console, signals: list[int]) -> int:
    """Waits for the end of the job and returns its exit status."""
    while True:
        console.show()
        done = job.finished()
        failure = job.failure()
        if signals:
            complain(f"\nsignal {signals[0]}: ending every rank (again: at once)")
            end_all(job, signals, gently=True)
            console.show()
            return 128 + signals[0]
        if failure:
            end_all(job, signals, gently=False)
            console.show()
            report(failure)
            return failure.status if 0 < failure.status < 256 else 1
        if done:
            console.show()
            return 0
        time.sleep(_TICK)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Options before `--`, the command after it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("ranks", "msrun"))
    parser.add_argument("--ranks", help="rank:device pairs with commas")
    parser.add_argument("--first_rank", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="workers of msrun on this server")
    parser.add_argument("--log", required=True, help="log of a rank; {rank} stands for its number")
    parser.add_argument("--log_dir", type=Path, help="where msrun writes")
    parser.add_argument("--order", help="more of the command as one text with shell quotes; nothing in it is executed")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    args = parser.parse_args(arguments[:split])
    args.command = arguments[split + 1 :]
    if args.order is not None:
        try:
            args.command += shlex.split(args.order)
        except ValueError as error:
            parser.error(f"EXECUTE_ORDER: {error}: {args.order}")
    return args


def main(arguments: list[str]) -> int:
    """Runs a job to its end and returns its exit status."""
    args = parse_arguments(arguments)
    stop_seconds()  # its fault shows before anything starts
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, lambda caught, frame: arrived(signals, caught))
    if args.kind == "ranks":
        pairs = dict(map(int, pair.split(":")) for pair in args.ranks.split(","))
        job: Ranks | Msrun = Ranks(pairs, args.log, args.command)
    else:
        job = Msrun(args.first_rank, args.workers, args.log_dir, args.log, args.command)
    return watch(job, Console(next(iter(job.logs.values()))), signals)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
