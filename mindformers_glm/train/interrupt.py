"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): the first asks for an orderly end, a second ends the process at once.

While MindSpore compiles or runs a graph it answers SIGINT by sending the process SIGTERM, so the two cannot be told
apart here. SIGHUP never insists: a closing terminal sends it twice, and systems send it beside SIGTERM. Under `nohup`
it stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Context in which `requested` becomes True when a signal arrives.

    Outside the main thread, where Python takes no signals, nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked = False  # by a signal that insists when it comes again
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number != signal.SIGHUP:
            os._exit(128 + number)  # the user insists; files are replaced atomically, so none is left half written
        self._asked = self._asked or number != signal.SIGHUP
        if not self.requested:
            self.requested = True
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("\nInterrupted: finishing this step, then saving. Once more ends at once.", file=sys.stderr)
