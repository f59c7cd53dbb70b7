"""A worker process that runs Lite under another interpreter: started, asked, watched, started again, ended."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mindformers_glm.errors import DeviceError
from mindformers_glm.export.lite import worker
from mindformers_glm.log import logger

_SOCKET_BYTES = 1 << 20
_LINES = 3  # of Lite's own error lines in a message
_LOG_LEVEL = "3"  # errors only: level 2 prints a warning for every operator


class WorkerDied(DeviceError):
    """The worker ended, or did not answer in time."""


class SharedArray:
    """An array whose memory a worker can see too. It has no name in any file system, so nothing is left behind."""

    _numbers = iter(range(1, 1 << 62))

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.number = next(self._numbers)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.descriptor = os.memfd_create("mindformers_glm_cache")
        self._close = weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, max(size, 1))
        self.array = np.frombuffer(
            mmap.mmap(self.descriptor, max(size, 1)), dtype, count=size // np.dtype(dtype).itemsize
        )
        self.array = self.array.reshape(shape)


class Worker:
    """Lite models in a process of their own. A call from any thread waits for its answer.

    `seconds` is the longest that one call may take: Lite can wait for ever on a model that it misreads.
    """

    def __init__(self, python: str, *, seconds: float = 600.0) -> None:
        self.python, self.seconds = python, seconds
        self._lock = threading.RLock()
        self._parts: _Parts | None = None
        self._loaded: dict[str, tuple[str, dict[str, Any]]] = {}  # name -> file and settings
        self._known: set[int] = set()  # shared arrays that the process has
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process, None before the first call and after the end."""
        return None if self._parts is None else self._parts.process.pid

    def about(self) -> dict[str, Any]:
        """Version of Lite and Python in the process."""
        return self._call({"do": "about"})[0]

    def load(self, model: str, path: str, settings: Mapping[str, Any]) -> list[list[Any]]:
        """Loads a model file under a name; its inputs as [name, shape, type].

        Raises:
            DeviceError: Lite cannot load it; the reason is Lite's own.
        """
        with self._lock:
            reply, _ = self._call({"do": "load", "model": model, "path": path, "settings": dict(settings)})
            self._loaded[model] = (path, dict(settings))
            return reply["inputs"]

    def convert(self, source: str, target: str, options: Mapping[str, Any]) -> None:
        """Runs Lite's Converter; see worker.convert."""
        self._call({"do": "convert", "source": source, "target": target, "options": dict(options)})

    def echo(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays themselves, through both ends of the socket."""
        return self._call({"do": "echo"}, arrays)[1]

    def run(self, model: str, feed: Mapping[str, np.ndarray | SharedArray]) -> list[np.ndarray]:
        """The outputs for inputs by name. When the process has died, a new one loads the models and tries once more.

        Raises:
            DeviceError: Lite failed, or a second process died as well.
        """
        with self._lock:
            try:
                if self._parts is None:
                    self._load_again()
                return self._run(model, feed)
            except WorkerDied as error:
                logger.warning("%s Starting it again.", error)
                self._load_again()
                return self._run(model, feed)

    def close(self) -> None:
        """Ends the process and waits for it. Nothing is lost: the next call starts another."""
        with self._lock:
            if self._parts is not None:
                self._parts.end()
                self._parts, self._known = None, set()

    def _load_again(self) -> None:
        for model, (path, settings) in list(self._loaded.items()):
            self.load(model, path, settings)

    def _run(self, model: str, feed: Mapping[str, np.ndarray | SharedArray]) -> list[np.ndarray]:
        arrays = {name: value for name, value in feed.items() if isinstance(value, np.ndarray)}
        shared = {name: value for name, value in feed.items() if isinstance(value, SharedArray)}
        used = {value.number: value for value in shared.values()}
        new = [value for number, value in used.items() if number not in self._known]
        header = {
            "do": "run",
            "model": model,
            "names": list(arrays),
            "places": {name: value.number for name, value in shared.items()},
            "share": [(value.number, value.array.dtype.str, value.array.shape) for value in new],
            "forget": sorted(self._known - set(used)),
        }
        results = self._call(header, list(arrays.values()), [value.descriptor for value in new])[1]
        self._known = set(used)
        return results

    def _call(
        self, header: dict[str, Any], arrays: Sequence[np.ndarray] = (), descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        with self._lock:
            if self._parts is None:
                self._parts = _Parts(self.python, self.seconds)
                self.starts += 1
            parts = self._parts
            try:
                worker.send(parts.channel, header, arrays, descriptors)
                reply, results, _ = worker.receive(parts.channel)
            except (EOFError, OSError) as error:
                raise self._died(parts, error) from error
            except BaseException:  # Ctrl-C in the middle of a message: the next one would be misread
                self.close()
                raise
            if "error" in reply:
                raise DeviceError(f"MindSpore Lite: {parts.explain(reply['error'])}")
            return reply, results

    def _died(self, parts: _Parts, error: BaseException) -> WorkerDied:
        slow = isinstance(error, TimeoutError)
        self.close()
        how = f"gave no answer in {self.seconds:g} s" if slow else _ending(parts.process.returncode)
        return WorkerDied(f"The MindSpore Lite process ({self.python}) {parts.explain(how)}.")


class _Parts:
    """What belongs to one running process."""

    def __init__(self, python: str, seconds: float) -> None:
        self.channel, theirs = socket.socketpair()
        for side in (self.channel, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self.channel.settimeout(seconds)
        watched, life = os.pipe()  # the process ends with the last copy of `life`, which only this process has
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        fcntl.fcntl(self.errors, fcntl.F_SETFL, os.O_APPEND)  # so that it can be emptied while the process writes
        try:
            self.process = subprocess.Popen(
                [python, "-u", worker.__file__, str(theirs.fileno()), str(watched)],
                stdin=subprocess.DEVNULL,
                stdout=self.errors,
                stderr=self.errors,
                pass_fds=(theirs.fileno(), watched),
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
                env=_environment(),
            )
        except OSError as error:
            os.close(life)
            raise DeviceError(f"The MindSpore Lite process cannot be started: {python}: {error}.") from error
        finally:
            theirs.close()
            os.close(watched)
        self.end = weakref.finalize(self, _end, self.process, self.channel, life)

    def explain(self, fault: str) -> str:
        """The fault with the last of Lite's own error lines, which hold the reason."""
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        self.errors.truncate(0)
        lines = [_bare(line) for line in text.splitlines() if "[ERROR]" in line]
        if not lines:
            lines = [line.strip() for line in text.splitlines() if line.strip() and "libnuma" not in line][-1:]
        told = list(dict.fromkeys(lines))[:_LINES]
        return f"{fault} ({'; '.join(told)})" if told else fault


def _environment() -> dict[str, str]:
    """Ours without what would lead another Python astray, and MindSpore's log level unless it is set."""
    left_out = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP"}
    return {"GLOG_v": _LOG_LEVEL, **{name: value for name, value in os.environ.items() if name not in left_out}}


def _end(process: subprocess.Popen, channel: socket.socket, life: int) -> None:
    channel.close()
    os.close(life)  # the kernel terminates the process, whatever it does
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
        return
    process.kill()
    process.wait()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return "was killed" if name in ("SIGKILL", "SIGIO") else f"died of {name}"
    return f"ended with status {code}"


def _bare(line: str) -> str:
    """A line of Lite's log without its time, thread and file."""
    return re.sub(r"^\[ERROR\].*?\]\s*", "", line.strip()).split("] ", 1)[-1].strip(" .")
