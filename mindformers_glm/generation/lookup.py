"""Prompt lookup, speculative decoding without a draft model: where the last tokens of a sequence occurred in it before,
the tokens that followed there are guessed to come again, and checked in one step.

A guess is right if it is the token that is chosen anyway, greedily or with the sequence's own random numbers: the
result is the same as without guesses, only sooner. Summaries, code and JSON that copy from their prompt become faster;
elsewhere nothing is guessed. Saxena, Prompt Lookup Decoding, 2023; here the longest earlier occurrence decides.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

NO_GUESSES = "only the network of the CPU kernels checks guesses"
_LEAST, _MOST = 2, 8  # shortest and longest ending of the sequence that is compared, in tokens
_LOOKED_AT = 16  # occurrences that are compared, the latest first
_FIRST_RATE, _MEMORY = 0.5, 0.15  # assumed share of right guesses at first; weight of a new observation


class Lookup:
    """The tokens of one sequence, and where each pair of tokens occurred in it."""

    def __init__(self, ids: Sequence[int], most: int) -> None:
        self.most = most
        self.rate = _FIRST_RATE  # share of first guesses that were right; the latest count most
        self._ids: list[int] = []
        self._after: dict[tuple[int, int], list[int]] = {}  # two tokens -> positions after them
        self._guessed: int | None = None
        for token in ids:
            self._append(int(token))

    def add(self, token: int) -> None:
        """Appends the next token of the sequence."""
        if self._guessed is not None:
            self.rate += _MEMORY * ((self._guessed == token) - self.rate)
        self._append(token)
        place = self._place()
        self._guessed = None if place is None else self._ids[place]

    def guesses(self, most: int) -> list[int]:
        """At most so many tokens that may come next; none where the last tokens did not occur before."""
        place = self._place() if most > 0 else None
        return [] if place is None else self._ids[place : place + min(most, self.most)]

    def _append(self, token: int) -> None:
        ids = self._ids
        if len(ids) >= _LEAST:  # this token follows the last two
            self._after.setdefault((ids[-2], ids[-1]), []).append(len(ids))
        ids.append(token)

    def _place(self) -> int | None:
        """The position after the longest earlier occurrence of the last tokens; among equally long ones, the latest."""
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
    """Estimates the time of a step, a constant part and one for each token, and how many guesses are worth it."""

    def __init__(self) -> None:
        self._plain: dict[int, list[float]] = {}  # number of sequences -> seconds of the last steps without guesses
        self._token = _TOKEN  # time of one more token, as a share of a step with one token

    def observe(self, rows: int, tokens: int, seconds: float) -> None:
        """Notes how long a step of `rows` sequences with `tokens` tokens took."""
        if tokens == rows:
            self._plain.setdefault(rows, []).append(seconds)
            del self._plain[rows][:-_KEPT]
            self._token += _FORGETTING * (_TOKEN - self._token)
        elif rows in self._plain:
            share = (seconds / statistics.median(self._plain[rows]) - 1) / (tokens - rows)
            token = share / (1 - share * (rows - 1)) if share * (rows - 1) < 1 else 1.0
            token = min(max(token, _LEAST_TOKEN), 2 * self._token)  # one step that was interrupted says little
            self._token += _MEMORY * (token - self._token)

    def counts(self, rows: int, found: Sequence[tuple[float, int]], most: int) -> list[int]:
        """How many guesses of each sequence are worth checking: those that are expected to raise tokens per second.

        `found` has the rate of each sequence and its number of guesses; `most` bounds the sum.
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
