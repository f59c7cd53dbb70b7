"""What a caller holds while the engine works for him."""

from __future__ import annotations

import queue
from collections.abc import Iterator

from mindformers_glm.generation.search import Generation, Search, Token


class Ticket:
    """Iterating gives tokens as they come; `results()` waits for the end.

    `cancel()` may come from any thread and takes effect before the next token; what was generated so far remains.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._queue: queue.SimpleQueue[Token | BaseException | None] = queue.SimpleQueue()
        self._is_over = False
        self.is_cancelled = False

    def __iter__(self) -> Iterator[Token]:
        while not self._is_over:
            item = self._queue.get()
            if item is None or isinstance(item, BaseException):
                self._is_over = True
                self._queue.put(item)  # for whoever asks again
                if item is not None:
                    raise item
                return
            yield item

    def cancel(self) -> None:
        """Asks the engine to stop; it does not wait."""
        self.is_cancelled = True

    def results(self) -> list[Generation]:
        """Every result, after the last token. Whatever stopped the engine at this request is raised here."""
        for _ in self:
            continue
        error = self._queue.get()
        self._queue.put(error)
        if error is not None:
            raise error
        return self._search.results()

    # --- the engine's side -------------------------------------------------------------------------------------

    def push(self, token: Token) -> None:
        """A new token for the caller."""
        self._queue.put(token)

    def close(self, error: BaseException | None = None) -> None:
        """The end, with the error that caused it, if any."""
        self._queue.put(error)
