"""Watches the other ranks of rank 0, which waits in MindSpore's own code, deaf to everything, when one of them is gone.

python -m mindformers_glm.cli.rank_watch PID NAME:PID:LOG ... ends with the process PID, its parent. When one of the
others has ended badly and the parent does not end by itself, it says so and ends the parent; the system then ends the
rest, which asked for that.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_OWN_ERROR_SECONDS = 15  # what ended another rank is mostly wrong for rank 0 too, which tells it better


def main(words: Sequence[str] | None = None) -> int:
    """Returns when the parent has ended."""
    given = sys.argv[1:] if words is None else words
    parent = int(given[0])
    others = [(name, int(pid), Path(log)) for name, pid, log in (word.split(":", 2) for word in given[1:])]
    while os.getppid() == parent:
        for name, pid, log in others:
            if not has_failed(pid):
                continue
            until = time.monotonic() + _OWN_ERROR_SECONDS
            while time.monotonic() < until:
                if os.getppid() != parent:
                    return 0
                time.sleep(0.2)
            print(f"{name}{last_line(log)} has ended, and this command cannot go on without it", file=sys.stderr)
            os.kill(parent, signal.SIGKILL)
            return 1
        time.sleep(0.5)
    return 0


def has_failed(pid: int) -> bool:
    """Whether a process that nobody has waited for yet has ended with another status than 0 (proc(5), stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False  # the parent has waited for it, and knows
    return fields[0] in "ZX" and int(fields[-1]) != 0


def last_line(log: Path) -> str:
    """Of what a process wrote, in brackets; nothing where there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" ({lines[-1][:300]})" if lines else ""


if __name__ == "__main__":
    raise SystemExit(main())
