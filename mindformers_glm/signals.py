"""Ctrl-C while MindSpore works.

When MindSpore compiles or runs a graph it replaces the handler of SIGINT and leaves its own in place. That one sends
the process SIGTERM, which by default ends it at once, without a word. The two cannot be told apart here.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt in the main thread, as SIGINT does; afterwards SIGINT is Python's again.

    A handler of SIGTERM that somebody has set stays in place, and outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if own:
        signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        if own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        before = signal.getsignal(signal.SIGINT)
        if before is not None:
            signal.signal(signal.SIGINT, before)  # it was Python's view only, while MindSpore's handler was in place


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
