"""The next tokens of many sequences by the compiled library. Shapes: N rows of logits, V vocabulary."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mindformers_glm.ops.kernels.structures import ChoiceStruct, address

ALL_BANNED, NOT_A_NUMBER = -1, -2
_NONE = np.zeros(0, np.int32)


class Wish(NamedTuple):
    """How to choose the token of a sequence; generation/config.py says what the settings mean.

    `ids` (int32) is the sequence so far, of which the last `num_new` are new; only penalties and n-grams need it.
    `banned` (int32) are ids that are never chosen; `biases` (float32) are added to the logits of the ids `biased`
    (int32). Bit i of byte j of `mask` (uint8) is 1 where id 8 j + i may be chosen; None allows all.
    """

    banned: np.ndarray
    uniform: float
    is_greedy: bool
    ids: np.ndarray = _NONE
    num_new: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    penalty: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    ngram: int = 0
    biased: np.ndarray = _NONE
    biases: np.ndarray = np.zeros(0, np.float32)
    wants_logprob: bool = False
    num_best: int = 0
    mask: np.ndarray | None = None


class Found(NamedTuple):
    """The token (ALL_BANNED, or NOT_A_NUMBER where a logit is NaN), its log-probability, and the most probable ids
    with theirs, best first.
    """

    token: int
    logprob: float
    best: np.ndarray
    best_logprobs: np.ndarray


def choose(functions: ctypes.CDLL, logits: np.ndarray, places: Sequence[int], wishes: Sequence[Wish]) -> list[Found]:
    """The tokens chosen from rows `places` of logits (N, V) float32, each by its wish.

    Raises:
        MemoryError: there is not enough.
    """
    logits = np.ascontiguousarray(logits, np.float32)
    count, size = len(wishes), logits.shape[1]
    structs = (ChoiceStruct * count)()
    best = [np.empty(min(wish.num_best, size), np.int32) for wish in wishes]
    logprobs = [np.empty(len(ids), np.float64) for ids in best]
    for struct, place, wish, ids, values in zip(structs, places, wishes, best, logprobs, strict=True):
        struct.row = place
        struct.ids, struct.num_ids, struct.num_new = address(wish.ids), len(wish.ids), wish.num_new
        struct.banned, struct.num_banned = address(wish.banned), len(wish.banned)
        struct.biased, struct.biases = address(wish.biased), address(wish.biases)
        struct.num_biased = len(wish.biased)
        if wish.mask is not None:
            struct.mask, struct.mask_bytes = address(wish.mask), len(wish.mask)
        struct.best, struct.best_logprobs, struct.num_best = address(ids), address(values), len(ids)
        struct.uniform, struct.temperature, struct.top_p = wish.uniform, wish.temperature, wish.top_p
        struct.penalty, struct.presence, struct.frequency = wish.penalty, wish.presence, wish.frequency
        struct.ngram, struct.top_k, struct.is_greedy = wish.ngram, wish.top_k, wish.is_greedy
        struct.wants_logprob = wish.wants_logprob or wish.num_best > 0
    if functions.glm_choose(address(logits), size, structs, count) != 0:
        raise MemoryError(f"There is no memory left for the logits of {count} sequences, {size} each.")
    found = zip(structs, best, logprobs, strict=True)
    return [Found(struct.token, struct.logprob, ids, values) for struct, ids, values in found]
