"""Sampling and greedy search: the sequences of one prompt get tokens until each of them has ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig, Limits
from mindformers_glm.generation.interface import FinishReason, Generation, Step, Token
from mindformers_glm.generation.lookup import Lookup
from mindformers_glm.generation.sampling import Choice, Row, next_tokens


class _Row:
    """One sequence. `ids` (int32) are prompt and new tokens, kept only where a setting needs them."""

    def __init__(self, sample: int, seed: Sequence[int], ids: np.ndarray | None) -> None:
        self.sample, self._ids = sample, ids
        self.new: list[int] = []
        self.choices: list[Choice] = []
        self.random = np.random.default_rng(seed)
        self.reason: FinishReason = "cancelled"
        self.lookup: Lookup | None = None

    def add(self, choice: Choice, prompt_tokens: int) -> None:
        """Appends a token."""
        self.new.append(choice.token)
        self.choices.append(choice)
        if self.lookup is not None:
            self.lookup.add(choice.token)
        if self._ids is not None:
            size = prompt_tokens + len(self.new)
            if size > len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros(size, np.int32)))
            self._ids[size - 1] = choice.token

    def ids(self, prompt_tokens: int) -> np.ndarray | tuple[int, ...]:
        """Prompt and new tokens; empty where no setting needs them."""
        return () if self._ids is None else self._ids[: prompt_tokens + len(self.new)]


class Samples:
    """`num_return_sequences` sequences of one prompt, each with its own random numbers; one sequence when greedy.

    The random numbers of sequence r of prompt i come from (seed, i, r), one for each token: other requests in the batch
    and guesses of prompt lookup do not change them. `ask` and `take` are for one sequence, so that tokens for sequences
    of several prompts can be chosen in one call; `advance` is for all sequences of this prompt.
    """

    def __init__(self, prompt: Sequence[int], config: GenerationConfig, limits: Limits, *, index: int = 0) -> None:
        self.prompt, self.config, self.limits = list(prompt), config, limits
        self.num_sequences = config.num_return_sequences
        self.seed = None if config.greedy else config.drawn_seed()
        ids = np.asarray(self.prompt, np.int32) if config.edits_logits else None
        self._rows = [_Row(sample, (self.seed or 0, index, sample), ids) for sample in range(self.num_sequences)]
        self._open = list(self._rows)
        if config.prompt_lookup_num_tokens:
            for row in self._rows:
                row.lookup = Lookup(self.prompt, config.prompt_lookup_num_tokens)

    @property
    def num_open(self) -> int:
        """The number of open sequences."""
        return len(self._open)

    def ask(self, row: int) -> Row:
        """How to choose the next token of an open sequence. Each call draws its next random number."""
        one = self._open[row]
        uniform = 0.0 if self.config.greedy else one.random.random()
        mask = None if self.config.token_mask is None else _bits(self.config.token_mask(one.new))
        return Row(one.ids(len(self.prompt)), len(one.new), self.limits.min_new, uniform, mask)

    def take(self, row: int, choice: Choice) -> tuple[Token, bool]:
        """Appends a token to an open sequence; returns the token to show, and whether the sequence stays open."""
        one = self._open[row]
        one.add(choice, len(self.prompt))
        reason = finish_reason(one.new, self.config, self.limits)
        if reason is not None:
            one.reason = reason
        return Token(one.sample, choice), reason is None

    def close_step(self) -> list[int]:
        """The numbers of the sequences that stay open; the others are no longer numbered."""
        going = [number for number, row in enumerate(self._open) if row.reason == "cancelled"]
        self._open = [self._open[number] for number in going]
        return going

    def lookup(self, row: int) -> Lookup | None:
        """The prompt lookup of an open sequence, if it is asked for."""
        return self._open[row].lookup

    def room(self, row: int) -> int:
        """How many new tokens an open sequence may still get."""
        return self.limits.max_new - len(self._open[row].new)

    def advance(self, logits: np.ndarray) -> Step:
        """See Search."""
        count = self.num_open
        sources = [0] * count if len(logits) == 1 else list(range(count))
        chosen = next_tokens(logits[sources], [self.ask(row) for row in range(count)], self.config)
        events = [self.take(row, choice)[0] for row, choice in enumerate(chosen)]
        going = self.close_step()
        return Step([sources[row] for row in going], [chosen[row].token for row in going], events)

    def open_ids(self, row: int) -> Sequence[int]:
        """See Search."""
        return self._open[row].new

    def results(self) -> list[Generation]:
        """See Search."""
        return [self._result(row) for row in self._rows]

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
    """Why a sequence with these new ids has ended; None if it has not."""
    if new[-1] in config.stop_ids or (config.stop is not None and config.stop(list(new))):
        return "stop"
    return "length" if len(new) >= limits.max_new else None
