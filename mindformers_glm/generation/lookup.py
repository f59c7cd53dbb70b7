"""Prompt lookup: what a sequence said after the same words before is guessed to come again, and checked in one step.

Guesses are checked against the tokens that are chosen anyway, greedy or drawn with the sequence's own random numbers:
the tokens are those that come without guesses, only sooner. Summaries, code and JSON that copy from their prompt gain;
elsewhere nothing is guessed. Saxena, Prompt Lookup Decoding, 2023; here the guess after the longest equal ending.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

NO_GUESSES = "tokens are guessed and checked by the network of the CPU kernels alone"
_LEAST, _MOST = 2, 8  # tokens of the ending that is looked for
_LOOKED_AT = 16  # places of an ending, the latest first
_FIRST_RATE, _MEMORY = 0.5, 0.15  # of guesses that were right; how fast it follows


class Lookup:
    """The tokens of one sequence, and what followed where it ended alike before."""

    def __init__(self, ids: Sequence[int], most: int) -> None:
        self.most = most
        self.rate = _FIRST_RATE  # share of first guesses that were right, the latest counting most
        self._ids: list[int] = []
        self._after: dict[tuple[int, int], list[int]] = {}  # two tokens -> places that follow them
        self._guessed: int | None = None
        for token in ids:
            self._append(int(token))

    def add(self, token: int) -> None:
        """The sequence's next token."""
        if self._guessed is not None:
            self.rate += _MEMORY * ((self._guessed == token) - self.rate)
        self._append(token)
        place = self._place()
        self._guessed = None if place is None else self._ids[place]

    def guesses(self, most: int) -> list[int]:
        """At most so many tokens that may come next; none where the ending is new."""
        place = self._place() if most > 0 else None
        return [] if place is None else self._ids[place : place + min(most, self.most)]

    def _append(self, token: int) -> None:
        ids = self._ids
        if len(ids) >= _LEAST:  # what follows the last two is this one
            self._after.setdefault((ids[-2], ids[-1]), []).append(len(ids))
        ids.append(token)

    def _place(self) -> int | None:
        """Where the sequence goes on after the longest ending that was there before, the latest of equal ones."""
        ids = self._ids
        if len(ids) < _LEAST:
            return None
        best, found = 0, None
        for place in reversed(self._after.get((ids[-2], ids[-1]), ())[-_LOOKED_AT:]):
            length, most = _LEAST, min(_MOST, place)
            while length < most and ids[place - 1 - length] == ids[-1 - length]:
                length += 1
            if length > best:
                best, found = length, place
            if best == _MOST:
                break
        return found


class StepCost:
    """What steps take, as a constant part and one for each token, from what they took; tells how many guesses pay."""

    def __init__(self) -> None:
        self._plain: dict[int, list[float]] = {}  # sequences -> seconds of the last steps without guesses
        self._token = _TOKEN  # of a step with one token, the part that another one takes

    def observe(self, rows: int, tokens: int, seconds: float) -> None:
        """A step of `rows` sequences with `tokens` tokens took so long."""
        if tokens == rows:
            self._plain.setdefault(rows, []).append(seconds)
            del self._plain[rows][:-_KEPT]
            self._token += _FORGETTING * (_TOKEN - self._token)
        elif rows in self._plain:
            share = (seconds / statistics.median(self._plain[rows]) - 1) / (tokens - rows)
            token = share / (1 - share * (rows - 1)) if share * (rows - 1) < 1 else 1.0
            token = min(max(token, _LEAST_TOKEN), 2 * self._token)  # one step that was held up says little
            self._token += _MEMORY * (token - self._token)

    def counts(self, rows: int, found: Sequence[tuple[float, int]], most: int) -> list[int]:
        """How many guesses of each sequence are worth checking: more tokens in their time than by steps without them.

        `found` tells each sequence's rate and how many guesses it has; `most` bounds them all together.
        """
        counts = [0] * len(found)
        if rows not in self._plain:  # nothing to compare with yet
            return counts
        gains = [(rate ** (i + 1), row) for row, (rate, size) in enumerate(found) for i in range(size)]
        tokens, time = float(rows), 1 - self._token + self._token * rows
        for gain, row in sorted(gains, key=lambda one: (-one[0], one[1]))[: max(0, most)]:
            if gain * time <= self._token * tokens:
                break
            counts[row] += 1
            tokens, time = tokens + gain, time + self._token
        return counts


_TOKEN, _LEAST_TOKEN = 0.15, 0.02
_KEPT = 9  # steps whose median counts
_FORGETTING = 0.02
