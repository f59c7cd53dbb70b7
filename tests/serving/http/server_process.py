"""A server in a process of its own on a free port of the loopback; scripts of this folder are forked."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import forked

ROOT = Path(__file__).resolve().parents[3]


class ServerProcess:
    """Waits until the process says where it serves."""

    def __init__(self, *words: str, patience: float = 120) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if words[0].endswith(".py"):
            self.process = forked.Child(words, env=environment)
        else:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        self.output: list[str] = []
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        for stream in (self.process.stdout, self.process.stderr):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()
        self.address = ""
        while not self.address:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                raise AssertionError(f"the server did not begin:\n{''.join(self.output)}") from None
            if not line and self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{''.join(self.output)}")
            found = re.search(r"serving .* at (http://\S+) ", line)
            self.address = found.group(1) if found else ""

    def _read(self, stream, lines) -> None:
        for line in stream:
            self.output.append(line)
            lines.put(line)
        lines.put("")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
