"""What becomes of one prompt: rows that are drawn or chosen token by token until each has ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig, Limits
from mindformers_glm.generation.interface import FinishReason, Generation, Step, Token
from mindformers_glm.generation.sampling import Choice, Row, next_tokens


class _Row:
    """One sequence on its way."""

    def __init__(self, sample: int, seed: Sequence[int]) -> None:
        self.sample = sample
        self.new: list[int] = []
        self.choices: list[Choice] = []
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
        choices = next_tokens(logits[sources], [self._row(row) for row in self._open], self.config)
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

    def _row(self, row: _Row) -> Row:
        uniform = 0.0 if self.config.greedy else row.random.random()
        edits = self.config.edits_logits or len(row.new) < self.limits.min_new
        ids = [*self.prompt, *row.new] if edits else ()
        mask = None if self.config.token_mask is None else _bits(self.config.token_mask(row.new))
        return Row(ids, len(row.new), self.limits.min_new, uniform, mask)

    def _result(self, row: _Row) -> Generation:
        told, best = self.config.output_logprobs or self.config.top_logprobs, self.config.top_logprobs
        return Generation(
            ids=row.new,
            finish_reason=row.reason,
            logprobs=[choice.logprob for choice in row.choices if choice.logprob is not None] if told else None,
            best=[choice.best for choice in row.choices] if best else None,
            prompt_tokens=len(self.prompt),
            seed=self.seed,
        )


def _bits(mask: object) -> np.ndarray:
    if isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and mask.ndim == 1 and mask.size:
        return np.ascontiguousarray(mask)
    told = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
    raise GenerationError(f"token_mask: it returned {told}. It must return bits of ids as an array (bytes,) of uint8.")


def finish_reason(new: list[int], config: GenerationConfig, limits: Limits) -> FinishReason | None:
    """Why a row with these new ids is over, or None when it goes on."""
    if new[-1] in config.stop_ids or (config.stop is not None and config.stop(list(new))):
        return "stop"
    return "length" if len(new) >= limits.max_new else None
