"""What the doctor's questions share: findings, and the machine that is asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.messages import told

OK, WARN, FAIL = "ok", "warn", "fail"
_SECONDS = 120


class Finding(NamedTuple):
    """One line: what was examined, ok, warn or fail, what was found, and what to do."""

    name: str
    level: str
    found: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"\n      -> {told(self.cure)}" if self.cure and self.level != OK else ""
        return f"{self.level:4}  {told(self.name)}: {told(self.found)}{cure}"


class Machine(NamedTuple):
    """`root` stands before absolute paths; `run` gives (exit status, output) of a program, status None without one."""

    root: Path = Path("/")
    environment: Mapping[str, str] = os.environ
    run: Callable[[Sequence[str]], tuple[int | None, str]] = lambda words: run_program(words)
    folder: Path = Path()

    def path(self, absolute: str) -> Path:
        """A file of the machine."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> str | None:
        """The text of a file, None without one."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


Examination = Callable[[Machine, str], Iterator[Finding]]


def run_program(words: Sequence[str]) -> tuple[int | None, str]:
    """Exit status and output of a program; None where there is no such program or it hangs."""
    try:
        done = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer in {_SECONDS} s"
    except OSError as error:
        return None, str(error.strerror)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")
