"""Ctrl-C in a program that talks to a model.

While a graph runs, MindSpore puts its own handler of SIGINT in place, and that one ends the process. So the signal is
blocked in every thread, where no handler sees it, and looked for instead; only while a line is read does it raise
KeyboardInterrupt as usual. A thread inherits what is blocked from the one that starts it: `hold` comes before
MindSpore is imported.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_CTRL_C = {signal.SIGINT}
_POLL_SECONDS = 0.05
_can_block = hasattr(signal, "pthread_sigmask")  # not on Windows: there Ctrl-C remains KeyboardInterrupt


def hold() -> None:
    """Blocks Ctrl-C in this thread and those it will start."""
    if _can_block:
        signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)


@contextlib.contextmanager
def watched(action: Callable[[], object]) -> Iterator[None]:
    """Inside, Ctrl-C calls `action` in another thread, however often it is pressed."""
    if not _can_block:
        yield
        return
    before, over = signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C), threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            if signal.SIGINT in signal.sigpending():
                signal.sigwait(_CTRL_C)
                action()

    watcher = threading.Thread(target=watch, name="ctrl-c", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt. No graph may run meanwhile."""
    if not _can_block or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
