"""Commands of this package as users type them, in children forked from one process that has imported MindSpore.

`run` takes and returns what `subprocess.run` does with text. A child starts in milliseconds where a new process needs
seconds for its imports; everything else is a process of its own: folder, environment, streams, status. Signals, start
and packages that are missing are tested with real processes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from waiting import has_ended

ROOT = Path(__file__).resolve().parents[1]
_IMPORTED = (  # before the first fork, what many commands need: the package's rooms, and what figures and metrics take
    "mindspore",
    *("mindformers_glm.cli.console", "mindformers_glm.components", "mindformers_glm.config.arguments"),
    *("mindformers_glm.tasks.task", "mindformers_glm.serving.loading", "mindformers_glm.evaluation.benchmarks"),
    "mindformers_glm.serving.http.server",
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "nltk.translate.bleu_score", "rouge_chinese", "jieba"),
)


def run(
    command: Sequence[Any],
    *,
    cwd: Any = None,
    env: Mapping[str, str] | None = None,
    input: str = "",
    timeout: int = 600,
) -> subprocess.CompletedProcess[str]:
    """Runs [script.py, words ...] or ["-m", module, words ...], with sys.executable before it or not.

    Raises:
        subprocess.TimeoutExpired: it did not end in `timeout` seconds.
    """
    words = [str(word) for word in command]
    words = words[1:] if words[0] == sys.executable else words
    with tempfile.TemporaryDirectory() as streams:
        paths = {name: os.path.join(streams, name) for name in ("stdin", "stdout", "stderr")}
        Path(paths["stdin"]).write_text(input, encoding="utf-8")
        job = {
            "words": words,
            "cwd": str(cwd or os.getcwd()),
            "env": dict(env or os.environ),
            "timeout": timeout,
            **paths,
        }
        status = _server().ask(job)
        out, err = (Path(paths[name]).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
    if status is None:
        raise subprocess.TimeoutExpired(words, timeout, out, err)
    return subprocess.CompletedProcess(words, status, out, err)


class Child:
    """A command that goes on, with what a test needs of subprocess.Popen: a server, for example.

    What it says comes through the pipes `stdout` and `stderr`, or goes to the files LOG.out and LOG.err.
    """

    def __init__(
        self,
        command: Sequence[Any],
        *,
        cwd: Any = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self._folder, self._server, self.returncode = tempfile.TemporaryDirectory(), _server(), None
        if log is None:
            places = {name: os.path.join(self._folder.name, name) for name in ("stdout", "stderr")}
            for path in places.values():
                os.mkfifo(path)
        else:
            places = {"stdout": f"{log}.out", "stderr": f"{log}.err"}
        job = {
            "words": [str(word) for word in command],
            "cwd": str(cwd or os.getcwd()),
            "env": dict(env or os.environ),
            "stdin": os.devnull,
            **places,
        }
        self.pid: int = self._server.ask({"start": job})
        if log is None:
            self.stdout, self.stderr = (open(path, encoding="utf-8", errors="replace") for path in places.values())  # noqa: SIM115

    def poll(self) -> int | None:
        """The exit status; None while the child runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """The exit status, once there is one.

        Raises:
            subprocess.TimeoutExpired: the child did not end in `timeout` seconds.
        """
        if self.poll() is None:
            if not has_ended(self.pid, seconds=timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.poll()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the child has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the child."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that has imported everything and forks a child for each job."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        environment = {**os.environ, "GLOG_v": "3", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        atexit.register(self.close)

    def ask(self, job: dict[str, Any]) -> int | None:
        """The status of a job; None when its time was over. Of one that is started, its process number."""
        with self.lock:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the process that forks has ended")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_servers: dict[tuple[int, int], _Server] = {}  # by process and thread: each of them waits for one answer at a time


def _server() -> _Server:
    caller = os.getpid(), threading.get_ident()
    if caller not in _servers:
        _servers[caller] = _Server()
    return _servers[caller]


# --- the process that forks -------------------------------------------------------------------------------------


def _serve() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    gc.disable()
    for name in _IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # MindSpore collects garbage before each compilation: no child looks through, and so copies, all this
    gc.enable()
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        if "poll" in job:
            done, status = os.waitpid(job["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if done else None
        else:
            child = os.fork()
            if child == 0:
                channel.close()
                _become(job.get("start", job))
            answer = child if "start" in job else _wait(child, job["timeout"])
        channel.write(json.dumps(answer) + "\n")
        channel.flush()
    os._exit(0)  # nothing is left to do, and MindSpore would take its time


def _wait(child: int, seconds: float) -> int | None:
    ended = has_ended(child, seconds=seconds)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(job: dict[str, Any]) -> None:
    """The child: does not return."""
    import runpy  # noqa: PLC0415
    import traceback  # noqa: PLC0415

    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests are run under nohup
    os.chdir(job["cwd"])
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        handle = os.open(job[name], flags | (os.O_CREAT if number else 0), 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering, encoding="utf-8")
        for number, mode, buffering in ((0, "r", -1), (1, "w", -1), (2, "w", 1))
    )
    os.environ.clear()
    os.environ.update(job["env"])
    words, status = job["words"], 0
    try:
        if words[0] == "-m":
            sys.path[0], sys.argv = job["cwd"], words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            script = os.path.join(job["cwd"], words[0])
            sys.path[0], sys.argv = os.path.dirname(script), words
            runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)


if __name__ == "__main__":
    _serve()
