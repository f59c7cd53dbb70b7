"""Beam search by the rules of transformers since 4.36, where lengths count new tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mindformers_glm.generation.config import GenerationConfig, Limits
from mindformers_glm.generation.interface import FinishReason, Generation, Step
from mindformers_glm.generation.sampling import log_softmax, process
from mindformers_glm.generation.search import finish_reason


class _Beam(NamedTuple):
    """An open sequence and the sum of its log-probabilities."""

    new: list[int]
    total: float


class _Finished(NamedTuple):
    """A finished sequence and its length-normalised score."""

    new: list[int]
    score: float
    reason: FinishReason


class BeamSearch:
    """The `num_return_sequences` best sequences of a search that keeps `num_beams` open ones at each step.

    A sequence that ends counts only if it is among the `num_beams` best continuations of its step.
    """

    def __init__(self, prompt: Sequence[int], config: GenerationConfig, limits: Limits) -> None:
        self.prompt, self.config, self.limits = list(prompt), config, limits
        self.num_sequences = config.num_beams
        self._beams = [_Beam([], 0.0)]
        self._finished: list[_Finished] = []
        self._is_over = False

    def advance(self, logits: np.ndarray) -> Step:
        """See Search. Nothing is shown before the end: the best sequence may change with every token."""
        totals = self._totals(logits)
        next_beams: list[_Beam] = []
        parents: list[int] = []
        best = -np.inf
        for rank, (place, total) in enumerate(self._candidates(totals)):
            parent, token = divmod(place, totals.shape[1])
            best = max(best, total)
            new = [*self._beams[parent].new, token]
            if finish_reason(new, self.config, self.limits) == "stop":
                if rank < self.num_sequences:
                    self._finish(new, total, "stop")
            elif len(next_beams) < self.num_sequences:
                next_beams.append(_Beam(new, total))
                parents.append(parent)
        self._beams = next_beams
        length = len(next_beams[0].new) if next_beams else 0
        if not next_beams or self._is_done(best, length):
            self._is_over = True
        elif length >= self.limits.max_new:
            self._is_over = True
            for beam in next_beams:
                self._finish(beam.new, beam.total, "length")
        if self._is_over:
            return Step([], [], [])
        return Step(parents, [beam.new[-1] for beam in next_beams], [])

    def open_ids(self, row: int) -> Sequence[int]:
        """See Search."""
        return self._beams[row].new

    def results(self) -> list[Generation]:
        """See Search."""
        if not self._is_over:
            return [
                Generation(beam.new, "cancelled", prompt_tokens=len(self.prompt))
                for beam in self._beams[: self.config.num_return_sequences]
            ]
        return [
            Generation(found.new, found.reason, prompt_tokens=len(self.prompt), score=found.score)
            for found in self._finished[: self.config.num_return_sequences]
        ]

    def _totals(self, logits: np.ndarray) -> np.ndarray:
        """Log-probabilities of every continuation of every beam, (n, V)."""
        rows = []
        for beam, row in zip(self._beams, log_softmax(logits), strict=True):
            ids = [*self.prompt, *beam.new]
            row = process(row, ids, self.config, num_new=len(beam.new), min_new=self.limits.min_new)
            rows.append(row + beam.total)
        return np.stack(rows)

    def _candidates(self, totals: np.ndarray) -> list[tuple[int, float]]:
        """The best continuations as (index into the flat array, score), best first.

        So many that `num_beams` open ones remain even where every beam could end with every stop id.
        """
        flat = totals.ravel()
        count = min(max(2, 1 + len(self.config.stop_ids)) * self.num_sequences, len(flat))
        places = np.argpartition(-flat, count - 1)[:count]
        places = places[np.lexsort((places, -flat[places]))]
        return [(int(place), float(flat[place])) for place in places if flat[place] > -np.inf]

    def _finish(self, new: list[int], total: float, reason: FinishReason) -> None:
        score = total / len(new) ** self.config.length_penalty
        self._finished.append(_Finished(new, score, reason))
        self._finished.sort(key=lambda found: -found.score)
        del self._finished[self.num_sequences :]

    def _is_done(self, best: float, length: int) -> bool:
        """Whether the search is over: by the rule of `early_stopping` no open beam can replace a finished one."""
        if len(self._finished) < self.num_sequences:
            return False
        if self.config.early_stopping is True:
            return True
        if self.config.early_stopping == "never" and self.config.length_penalty > 0:
            length = self.limits.max_new
        return self._finished[-1].score >= best / length**self.config.length_penalty
