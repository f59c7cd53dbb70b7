"""From logits to the next token: by the compiled library; where there is none, or a user's function changes logits, the
same in NumPy. Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.ops.kernels import choosing
from mindformers_glm.ops.kernels.library import library

FORBIDDEN = -np.inf
Ids = Sequence[int] | np.ndarray
_NO_IDS = np.zeros(0, np.int32)
_ALL_FORBIDDEN = "token_mask, bad_words_ids and no_repeat_ngram_size together forbid every token"
_NO_NUMBERS = "the network's output is not a number: the weights are damaged, or float16 overflowed"
_CANDIDATES = 256  # top-p sorts so many best tokens first, and the whole vocabulary only if they are too few


class Choice(NamedTuple):
    """A token; where they were asked for, also its log-probability and the best ids with theirs."""

    token: int
    logprob: float | None = None
    best: tuple[tuple[int, float], ...] = ()


class Row(NamedTuple):
    """A sequence that gets a token: its ids without padding (empty where no setting needs them), how many of them are
    new, how many must be new before it may end, the random number in [0, 1) by which it samples, and the bits of the
    allowed ids (None: all).
    """

    ids: Ids
    num_new: int
    min_new: int
    uniform: float = 0.0
    mask: np.ndarray | None = None


def next_tokens(logits: np.ndarray, rows: Sequence[Row], config: GenerationConfig) -> list[Choice]:
    """The next token of each sequence, from logits (B, V) as the network gave them.

    Raises:
        GenerationError: every token is forbidden, or a user's function returned no logits.
    """
    found = choices(logits, [Asked(place, row, config) for place, row in enumerate(rows)])
    for choice in found:
        if isinstance(choice, BaseException):
            raise choice
    return [choice for choice in found if isinstance(choice, Choice)]


class Asked(NamedTuple):
    """A sequence that gets a token by its own settings, from row `place` of the logits."""

    place: int
    row: Row
    config: GenerationConfig


def choices(logits: np.ndarray, asked: Sequence[Asked]) -> list[Choice | BaseException]:
    """The next token of each sequence in `asked`, of any requests, from logits (N, V) as the network gave them.

    One call of the compiled library chooses for all sequences except those with a `logits_processor`, which NumPy
    computes. Instead of a token there is an error where every token is forbidden, where logits are NaN, or where a
    user's function raised one.
    """
    kernels = library()
    compiled = [one for one in asked if kernels is not None and not one.config.logits_processor]
    made: list[choosing.Found] = []
    if kernels is not None and compiled:
        wishes = [_wish(one.row, one.config) for one in compiled]
        made = choosing.choose(kernels, logits, [one.place for one in compiled], wishes)
    waiting = iter(made)
    found: list[Choice | BaseException] = []
    for one in asked:  # no comprehension: an error's traceback would keep the logits alive that it closes over
        if kernels is not None and not one.config.logits_processor:
            found.append(_told_by_kernels(next(waiting), one.config))
        else:
            found.append(_by_formula(logits, one))
    return found


def _told_by_kernels(found: choosing.Found, config: GenerationConfig) -> Choice | GenerationError:
    if found.token < 0:
        return GenerationError(_NO_NUMBERS if found.token == choosing.NOT_A_NUMBER else _ALL_FORBIDDEN)
    if not (config.output_logprobs or config.top_logprobs):
        return Choice(found.token)
    best = zip(found.best.tolist(), found.best_logprobs.tolist(), strict=True)
    return Choice(found.token, found.logprob, tuple(best))


def _by_formula(logits: np.ndarray, asked: Asked) -> Choice | BaseException:
    row, config, raw = asked.row, asked.config, logits[asked.place]
    try:
        check_numbers(raw)
        processed = process(raw, row.ids, config, num_new=row.num_new, min_new=row.min_new, mask=row.mask)
        return choose(raw[None], processed[None], [config], np.asarray([row.uniform]))[0]
    except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits for this sequence
        return error


def check_numbers(logits: np.ndarray) -> None:
    """Returns if no logit is NaN.

    Raises:
        GenerationError: one is.
    """
    if np.isnan(logits.max()):
        raise GenerationError(_NO_NUMBERS)


def _wish(row: Row, config: GenerationConfig) -> choosing.Wish:
    biased, biases = _biases(config.logit_bias)
    return choosing.Wish(
        ids=np.ascontiguousarray(row.ids, np.int32) if config.edits_logits else _NO_IDS,
        num_new=min(row.num_new, len(row.ids)),
        banned=np.asarray(_ends(row.ids, config, num_new=row.num_new, min_new=row.min_new), np.int32),
        biased=biased,
        biases=biases,
        uniform=float(row.uniform),
        is_greedy=config.greedy,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        penalty=config.repetition_penalty,
        presence=config.presence_penalty,
        frequency=config.frequency_penalty,
        ngram=config.no_repeat_ngram_size,
        wants_logprob=config.output_logprobs,
        num_best=config.top_logprobs,
        mask=row.mask,
    )


@lru_cache(maxsize=64)
def _biases(pairs: tuple[tuple[int, float], ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray([token for token, _ in pairs], np.int32), np.asarray([bias for _, bias in pairs], np.float32)


def process(
    logits: np.ndarray,
    ids: Ids,
    config: GenerationConfig,
    *,
    num_new: int,
    min_new: int,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """The logits (V,) of a sequence after penalties, biases, a user's functions, mask and forbidden tokens.

    A new array, unless nothing changed. `ids` are prompt and new tokens of this sequence alone, without padding;
    `num_new` of them are new.

    Raises:
        GenerationError: every token is forbidden, or a user's function returned no logits.
    """
    if config.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, ids, config.repetition_penalty)
    if config.logit_bias:
        logits = bias(logits, *_biases(config.logit_bias))
    if config.presence_penalty or config.frequency_penalty:
        logits = penalise_said(logits, ids[len(ids) - min(num_new, len(ids)) :], config)
    for processor in config.logits_processor:
        changed = np.asarray(processor(np.array(ids, np.int32)[None], logits[None].copy()), np.float32)
        if changed.size != logits.size or np.isnan(changed.max()):
            fault = "numbers that are not finite" if changed.size == logits.size else f"shape {changed.shape}"
            raise GenerationError(f"logits_processor: it returned {fault}, not logits (1, {len(logits)})")
        logits = changed.reshape(logits.shape)
    ends = banned(ids, config, num_new=num_new, min_new=min_new)
    if ends or mask is not None:
        logits = logits.copy()
        if mask is not None:
            logits[~_allowed(mask, len(logits))] = FORBIDDEN
        logits[[token for token in ends if token < len(logits)]] = FORBIDDEN
        if logits.max() == FORBIDDEN:
            raise GenerationError(_ALL_FORBIDDEN)
    return logits


def _allowed(mask: np.ndarray, size: int) -> np.ndarray:
    """A flag for each id; ids beyond the mask are not allowed."""
    flags = np.zeros(size, bool)
    bits = np.unpackbits(mask, bitorder="little")[:size]
    flags[: len(bits)] = bits
    return flags


def banned(ids: Ids, config: GenerationConfig, *, num_new: int, min_new: int) -> list[int]:
    """The tokens that are forbidden next."""
    found = repeated_ngram_ends(ids, config.no_repeat_ngram_size) if config.no_repeat_ngram_size else []
    return found + _ends(ids, config, num_new=num_new, min_new=min_new)


def _ends(ids: Ids, config: GenerationConfig, *, num_new: int, min_new: int) -> list[int]:
    """Those that are forbidden for other reasons than n-grams: last ids of bad words, and stop ids before `min_new`."""
    found: list[int] = []
    for word in config.bad_words_ids:
        if len(ids) >= len(word) - 1 and tuple(ids[len(ids) - len(word) + 1 :]) == word[:-1]:
            found.append(word[-1])
    return [*found, *config.stop_ids] if num_new < min_new else found


def penalise_repetition(logits: np.ndarray, ids: Ids, penalty: float) -> np.ndarray:
    """Logits (V,) with those of `ids` divided (positive) or multiplied (negative) by the penalty, each id once.

    Keskar et al., CTRL, 2019.
    """
    seen = np.unique(np.asarray(ids, np.int64))
    seen = seen[seen < len(logits)]
    logits = logits.copy()
    values = logits[seen]
    logits[seen] = np.where(values < 0, values * penalty, values / penalty)
    return logits


def bias(logits: np.ndarray, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Logits (V,) with `values` added to those of `ids`."""
    known = ids < len(logits)
    logits = logits.copy()
    logits[ids[known]] += values[known]
    return logits


def penalise_said(logits: np.ndarray, new: Ids, config: GenerationConfig) -> np.ndarray:
    """Logits (V,) less `presence_penalty`, and `frequency_penalty` times its count, for each id among the new ones.

    As OpenAI defines them.
    """
    said, times = np.unique(np.asarray(new, np.int64), return_counts=True)
    said, times = said[said < len(logits)], times[said < len(logits)]
    logits = logits.copy()
    logits[said] -= (config.presence_penalty + config.frequency_penalty * times).astype(np.float32)
    return logits


def repeated_ngram_ends(ids: Ids, size: int) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens that is in the sequence already."""
    if len(ids) < size:
        return []
    ids = list(ids)
    if size == 1:
        return ids
    tail = ids[len(ids) - size + 1 :]
    return [ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == tail]


def choose(
    raw: np.ndarray, processed: np.ndarray, configs: Sequence[GenerationConfig], uniforms: np.ndarray
) -> list[Choice]:
    """The next token of each sequence.

    raw, processed (B, V): logits as the network gave them, and after `process`. Sequences that sample do so by their
    number in `uniforms` (B,), in [0, 1): a choice depends on nothing but the logits and the number of its sequence.
    """
    tokens = processed.argmax(-1)
    for row, config in enumerate(configs):
        if not config.greedy:
            tokens[row] = sample(processed[row], config, uniforms[row])
    return [_told(raw[row], int(tokens[row]), config) for row, config in enumerate(configs)]


def sample(logits: np.ndarray, config: GenerationConfig, uniform: float) -> int:
    """A token drawn from logits (V,): the inverse of the distribution function at `uniform`, ids best first."""
    ids, probabilities = distribution(logits, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    place = int(np.searchsorted(np.cumsum(probabilities), uniform, side="right"))
    return int(ids[min(place, int(np.flatnonzero(probabilities)[-1]))])  # rounding may keep the sum below 1


def distribution(logits: np.ndarray, *, temperature: float, top_k: int, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Ids that can be drawn and their probabilities (float64, sum 1).

    Logits are divided by temperature. Ids stay whose logit is at least the `top_k`-th best (0: all), and of these the
    fewest best whose probabilities together reach `top_p` (Holtzman et al., 2020). Best first if a filter is on.
    """
    size = len(logits)
    if 0 < top_k < size:
        limit = np.partition(logits, size - top_k)[size - top_k]
        ids = np.flatnonzero(logits >= limit)
        ids = ids[logits[ids] > FORBIDDEN] if limit == FORBIDDEN else ids
    elif top_p < 1:
        ids = _enough(logits, temperature, top_p)
    else:
        ids = np.arange(size)
    if 0 < top_k < size or top_p < 1:
        ids = ids[np.argsort(-logits[ids], kind="stable")]
    scores = logits[ids].astype(np.float64) / temperature
    weights = np.exp(scores - scores.max())
    if top_p < 1:
        total = weights.sum() if 0 < top_k < size or len(ids) == size else _mass(logits, temperature)
        kept = int(np.searchsorted(np.cumsum(weights), top_p * total, side="left")) + 1
        ids, weights = ids[:kept], weights[:kept]
    return ids, weights / weights.sum()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis, float64. (..., V)."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_probabilities(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The log-probability of one token in each row of logits, float64 (N,). logits (N, V), tokens (N,)."""
    top = logits.max(-1, keepdims=True)
    total = np.exp(logits - top).sum(-1, dtype=np.float64)
    picked = np.take_along_axis(logits - top, np.asarray(tokens)[:, None], -1)[:, 0]
    return picked.astype(np.float64) - np.log(total)


def best_ids(logits: np.ndarray, count: int) -> list[tuple[tuple[int, float], ...]]:
    """The `count` best ids of each row of logits (N, V) with their log-probabilities, best first."""
    count = min(count, logits.shape[1])
    if not count:
        return [()] * len(logits)
    told: list[tuple[tuple[int, float], ...]] = []
    for row in logits:
        logprob = log_softmax(row)
        pairs = [(int(index), float(logprob[index])) for index in _first_best(row, count)]
        told.append(tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))))
    return told


def _told(raw: np.ndarray, token: int, config: GenerationConfig) -> Choice:
    if not (config.output_logprobs or config.top_logprobs):
        return Choice(token)
    return Choice(token, float(log_softmax(raw)[token]), best_ids(raw[None], config.top_logprobs)[0])


def _enough(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Ids whose probabilities surely reach `top_p`: some of the best, or all where these do not suffice."""
    size = len(logits)
    if size <= _CANDIDATES:
        return np.arange(size)
    ids = _first_best(logits, _CANDIDATES)
    scores = logits[ids].astype(np.float64) / temperature
    held = np.exp(scores - scores.max()).sum()
    return ids if held >= top_p * _mass(logits, temperature) else np.arange(size)


def _first_best(logits: np.ndarray, count: int) -> np.ndarray:
    """The `count` best ids of logits (V,), in no order; among equal logits the smallest ids."""
    limit = np.partition(logits, len(logits) - count)[len(logits) - count]
    above = np.flatnonzero(logits > limit)
    return np.concatenate([above, np.flatnonzero(logits == limit)[: count - len(above)]])


def _mass(logits: np.ndarray, temperature: float) -> float:
    """Sum of exp((logits - max) / temperature)."""
    return float(np.exp((logits - logits.max()) / temperature).sum(dtype=np.float64))
