"""What becomes of one prompt: rows that are drawn or chosen token by token until each has ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers_glm.generation.config import GenerationConfig, Limits
from mindformers_glm.generation.interface import FinishReason, Generation, Step, Token
from mindformers_glm.generation.sampling import choose, process


class _Row:
    """One sequence on its way."""

    def __init__(self, sample: int, seed: Sequence[int]) -> None:
        self.sample, self.new, self.choices = sample, [], []
        self.random = np.random.default_rng(seed)
        self.reason: FinishReason = "cancelled"


class Samples:
    """`num_return_sequences` rows of one prompt, each with its own random numbers; one row when greedy.

    The numbers of row r of prompt i come from (seed, i, r): they depend on nothing that runs beside it.
    """

    def __init__(self, prompt: Sequence[int], config: GenerationConfig, limits: Limits, *, index: int = 0) -> None:
        self.prompt, self.config, self.limits = list(prompt), config, limits
        self.num_rows = config.num_return_sequences
        self.seed = None if config.greedy else config.drawn_seed()
        self._rows = [_Row(sample, (self.seed or 0, index, sample)) for sample in range(self.num_rows)]
        self._open = list(self._rows)

    def advance(self, logits: np.ndarray) -> Step:
        """See Search."""
        sources = [0] * len(self._open) if len(logits) == 1 else list(range(len(self._open)))
        raw = logits[sources]
        rows = [self._processed(row, raw[i]) for i, row in enumerate(self._open)]
        drawn = [0.0 if self.config.greedy else row.random.random() for row in self._open]
        choices = choose(raw, np.stack(rows), [self.config] * len(rows), np.asarray(drawn))
        step = Step([], [], [])
        for source, row, choice in zip(sources, self._open, choices, strict=True):
            row.new.append(choice.token)
            row.choices.append(choice)
            step.events.append(Token(row.sample, choice))
            reason = finish_reason(row.new, self.config, self.limits)
            if reason is None:
                step.parents.append(source)
                step.tokens.append(choice.token)
            else:
                row.reason = reason
        self._open = [row for row in self._open if row.reason == "cancelled"]
        return step

    def open_ids(self, row: int) -> Sequence[int]:
        """See Search."""
        return self._open[row].new

    def results(self) -> list[Generation]:
        """See Search."""
        return [self._result(row) for row in self._rows]

    def _processed(self, row: _Row, logits: np.ndarray) -> np.ndarray:
        new = row.new
        if not self.config.edits_logits and len(new) >= self.limits.min_new:
            return logits
        return process(logits, [*self.prompt, *new], self.config, num_new=len(new), min_new=self.limits.min_new)

    def _result(self, row: _Row) -> Generation:
        told, best = self.config.output_logprobs or self.config.top_logprobs, self.config.top_logprobs
        return Generation(
            ids=row.new,
            finish_reason=row.reason,
            logprobs=[choice.logprob for choice in row.choices] if told else None,
            best=[choice.best for choice in row.choices] if best else None,
            prompt_tokens=len(self.prompt),
            seed=self.seed,
        )


def finish_reason(new: list[int], config: GenerationConfig, limits: Limits) -> FinishReason | None:
    """Why a row with these new ids is over, or None when it goes on."""
    if new[-1] in config.stop_ids or (config.stop is not None and config.stop(list(new))):
        return "stop"
    return "length" if len(new) >= limits.max_new else None
