"""What an error keeps after it ended a request: its lines, and none of the engine's values."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType


def let_go(errors: Iterable[BaseException]) -> None:
    """Empties the finished calls below the caller's that these errors, their causes and contexts were raised in.

    A traceback holds its calls, and each call the one that made it: logits and caches of everybody's sequences, and the
    request that holds the error. They would stay until a full garbage collection, which counts objects and no bytes.
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
    """The calls from `frame` up to `caller`; none when another thread or a generator made them."""
    calls = []
    while frame is not None and frame is not caller:
        calls.append(frame)
        frame = frame.f_back
    return [] if frame is None else calls


def _empty(frame: FrameType) -> None:
    try:
        frame.clear()
    except RuntimeError:  # it runs
        return
