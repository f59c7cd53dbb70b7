"""What a caller holds while the engine works for him."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from mindformers_glm.generation.search import Generation, Search, Token

Item = Token | BaseException | None  # a token, or the end: None, or the error that caused it


class Ticket:
    """Iterating gives tokens as they come; `results()` waits for the end.

    `cancel()` may come from any thread and takes effect before the next token; what was generated so far remains.
    With `listener` every item goes to that function instead, in the engine's thread.
    """

    def __init__(self, search: Search, listener: Callable[[Item], None] | None = None) -> None:
        self._search = search
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._put = listener or self._queue.put
        self._is_over = False
        self._error: BaseException | None = None
        self.is_cancelled = False

    def __iter__(self) -> Iterator[Token]:
        while not self._is_over:
            item = self._queue.get()
            if not isinstance(item, Token):
                self._is_over, self._error = True, item
                break
            yield item
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Asks the engine to stop; it does not wait."""
        self.is_cancelled = True

    def results(self) -> list[Generation]:
        """Every result, after the last token. Whatever stopped the engine at this request is raised here."""
        for _ in self:
            continue
        return self._search.results()

    @property
    def found(self) -> list[Generation]:
        """What there is by now."""
        return self._search.results()

    # --- the engine's side -------------------------------------------------------------------------------------

    def push(self, token: Token) -> None:
        """A new token for the caller."""
        self._put(token)

    def close(self, error: BaseException | None = None) -> None:
        """The end, with the error that caused it, if any."""
        self._put(error)
