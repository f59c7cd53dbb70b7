"""What an error keeps alive after it has ended a request: line numbers, and none of the engine's values."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType


def let_go(errors: Iterable[BaseException]) -> None:
    """Clears the frames of finished calls, below the caller's, in the tracebacks of these errors, causes and contexts.

    A traceback keeps its frames alive, and each frame the one that called it: logits and KV caches of all sequences,
    and the request that holds the error. They would stay until a full garbage collection, which counts objects, not
    bytes.
    """
    caller = sys._getframe(1)
    waiting, seen = list(errors), set()
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        waiting += [other for other in (error.__cause__, error.__context__) if other is not None]
        place = error.__traceback__
        while place is not None:
            for frame in _calls_below(caller, place.tb_frame):
                _empty(frame)
            place = place.tb_next


def _calls_below(caller: FrameType, frame: FrameType | None) -> list[FrameType]:
    """The frames from `frame` up to `caller`; none where these are of another thread or a generator."""
    calls = []
    while frame is not None and frame is not caller:
        calls.append(frame)
        frame = frame.f_back
    return [] if frame is None else calls


def _empty(frame: FrameType) -> None:
    try:
        frame.clear()
    except RuntimeError:  # it still runs
        return
