"""How much other work there was on the machine while a process ran: it slows what is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

DISTURBED = 0.1  # from here on the figures say more about the other work

_IDLE = (3, 4)  # fields of /proc/stat: idle, and idle while a disk is waited for
_FIELDS = 8  # those after it are in the first two already


class Contention:
    """Watches from the moment it is made."""

    def __init__(self) -> None:
        self._begin, self._busy = time.monotonic(), _busy_seconds()

    def share(self, own_seconds: float) -> float | None:
        """Part of all CPUs' time that others took, the host of a virtual machine among them.

        `own_seconds` is the CPU time of the process that was watched. None where the system does not tell.
        """
        busy, passed = _busy_seconds(), time.monotonic() - self._begin
        if busy is None or self._busy is None or passed <= 0:
            return None
        share = (busy - self._busy - own_seconds) / (passed * (os.cpu_count() or 1))
        return min(1.0, max(0.0, share))


def _busy_seconds() -> float | None:
    """Time that all CPUs have worked since the system started."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1 : 1 + _FIELDS]
    except OSError:
        return None
    ticks = sum(int(word) for place, word in enumerate(words) if place not in _IDLE)
    return ticks / os.sysconf("SC_CLK_TCK")
