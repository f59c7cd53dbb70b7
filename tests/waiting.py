"""Waiting for what another thread or process does: the one place of the tests that looks again and again.

What tells of itself (a line, an end, a lock) is waited for where it does; `until` is for files and for what other
processes do. Its time is how long a test that hangs goes on, not how long anything may take.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Found = TypeVar("_Found")
_STEP = 0.005


def until(look: Callable[[], _Found], what: str = "it did not come", *, seconds: float = 120) -> _Found:
    """The first thing that `look` gives and that counts as true; a failure that says `what` after `seconds`."""
    found = seen(look, seconds=seconds)
    assert found is not None, what
    return found


def seen(look: Callable[[], _Found], *, seconds: float) -> _Found | None:
    """The first thing that `look` gives and that counts as true; None when that time has passed."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            return None
        time.sleep(_STEP)
    return found


def has_ended(pid: int, *, seconds: float = 120) -> bool:
    """Whether a process ends in that time; it need not be a child of this one, nor have been waited for."""
    return bool(first_ended([pid], seconds=seconds))


def first_ended(pids: Sequence[int], *, seconds: float = 120) -> list[int]:
    """Those of some processes that have ended, once there is one; none after that time."""
    handles: dict[int, int] = {}
    try:
        for pid in pids:
            try:
                handles[os.pidfd_open(pid)] = pid
            except ProcessLookupError:
                return [pid]
        waiting = select.poll()
        for handle in handles:
            waiting.register(handle, select.POLLIN)
        return [handles[handle] for handle, _ in waiting.poll(seconds * 1000)]
    finally:
        for handle in handles:
            os.close(handle)


@contextlib.contextmanager
def until_a_signal_is_taken() -> Iterator[None]:
    """Afterwards a signal sent inside has reached Python, also as another: MindSpore passes SIGINT on as SIGTERM."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        yield
        os.read(reading, 1)
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
