"""What a caller of the engine gets: tokens as they come, and the results."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.interface import Generation, Search, Token

Item = Token | BaseException | None  # a token, or the end: None, or the error that caused it
owner_threads = threading.local()  # `.is_one` is True in the threads that drive engines


class Ticket:
    """Iterating gives tokens as they come; `results()` waits for the end.

    `cancel()` may be called in any thread and takes effect before the next token; what was generated so far remains.
    With `listener` every item goes to that function instead, in the engine's thread, and iterating gives none. If it
    raises an error, this request ends, no other does, and `results()` raises that error.
    """

    def __init__(self, search: Search, listener: Callable[[Item], None] | None = None) -> None:
        self._search, self._listener = search, listener
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._is_over = self._is_closed = False
        self._error: BaseException | None = None
        self._raised_at: TracebackType | None = None
        self.is_cancelled = False

    def __iter__(self) -> Iterator[Token]:
        item: Item = None
        while not self._is_over:
            item = self._next()
            if not isinstance(item, Token):
                self._is_over, self._error = True, item
                self._queue.put(item)  # for other threads that wait
                break
            yield item
        if self._error is not None:
            try:
                raise self._error.with_traceback(self._raised_at)  # without the lines of other threads that raised it
            finally:
                self = item = None  # type: ignore[assignment]  # else the error's traceback would hold the error

    def cancel(self) -> None:
        """Asks the engine to stop; it does not wait."""
        self.is_cancelled = True

    def results(self) -> list[Generation]:
        """Every result, after the last token. The error that ended this request, if any, is raised here."""
        try:
            for _ in self:
                continue
            return self._search.results()
        finally:
            del self

    @property
    def found(self) -> list[Generation]:
        """The results so far."""
        return self._search.results()

    def _next(self) -> Item:
        check_may_wait(is_ready=not self._queue.empty())
        return self._queue.get()

    # --- the engine's side -------------------------------------------------------------------------------------

    def push(self, token: Token) -> None:
        """Passes a new token to the caller. Raises what the listener raises."""
        if self._listener is None:
            self._queue.put(token)
        else:
            self._listener(token)

    def close(self, error: BaseException | None = None) -> BaseException | None:
        """Ends the ticket, with the error that ended the request, if any; otherwise an error of the listener counts.

        Nothing is raised here, and only the first call has an effect. Returns the error that the caller will get.
        """
        if self._is_closed:
            return None
        self._is_closed = True
        if self._listener is not None:
            try:
                self._listener(error)
            except BaseException as own:  # noqa: BLE001 - it belongs to the one who waits
                error = own if error is None else error
        self._raised_at = None if error is None else error.__traceback__
        self._queue.put(error)
        return error


def check_may_wait(*, is_ready: bool = False) -> None:
    """Refuses to wait in an engine's own thread for what only this thread can do.

    Raises:
        GenerationError: waiting would never end.
    """
    if not is_ready and getattr(owner_threads, "is_one", False):
        raise GenerationError(
            "a listener, stop function or logits processor may not wait for an engine: it holds up its thread"
        )
