"""Work done ahead in one background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
_WAIT_SECONDS = 0.1


def ahead(make: Callable[[int], T], numbers: range, *, depth: int = 2) -> Iterator[T]:
    """`make(n)` for each n in order, up to `depth` results ready before they are asked for.

    An exception of `make` is raised where its result would have come. The thread ends when the iterator is
    exhausted, closed or dropped.
    """
    done: queue.Queue = queue.Queue(maxsize=max(depth, 1))
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(make, numbers, done, stop), name="data", daemon=True)
    thread.start()
    try:
        for _ in numbers:
            result, error = done.get()
            if error is not None:
                raise error
            yield result
    finally:
        stop.set()
        thread.join()


def _produce(make: Callable[[int], T], numbers: range, done: queue.Queue, stop: threading.Event) -> None:
    for number in numbers:
        item: tuple[T | None, Exception | None]
        try:
            item = (make(number), None)
        except Exception as error:  # handed to the consumer, whatever it is
            item = (None, error)
        while not stop.is_set():
            try:
                done.put(item, timeout=_WAIT_SECONDS)
                break
            except queue.Full:
                continue
        if stop.is_set() or item[1] is not None:
            return
