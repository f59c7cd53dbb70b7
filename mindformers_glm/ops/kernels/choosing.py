"""The next tokens of many rows by the compiled library. Shapes: B rows, V vocabulary."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mindformers_glm.ops.kernels.structures import ChoiceStruct, address


class Wish(NamedTuple):
    """How a row chooses; what the fields mean is stated in generation/sampling.py.

    `seen` (int32) are the ids that the penalty concerns, `banned` (int32) those that are never chosen. Bit i of byte j
    of `mask` (uint8) is 1 where id 8 j + i may be chosen; None allows all.
    """

    seen: np.ndarray
    banned: np.ndarray
    uniform: float
    is_greedy: bool
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    penalty: float = 1.0
    wants_logprob: bool = False
    num_best: int = 0
    mask: np.ndarray | None = None


class Found(NamedTuple):
    """The token (-1 where all are banned), its log-probability, and the most probable ids with theirs, best first."""

    token: int
    logprob: float
    best: np.ndarray
    best_logprobs: np.ndarray


def choose(functions: ctypes.CDLL, logits: np.ndarray, wishes: Sequence[Wish]) -> list[Found]:
    """What each row of logits (B, V) float32 gives.

    Raises:
        MemoryError: there is not enough.
    """
    logits = np.ascontiguousarray(logits, np.float32)
    rows, size = logits.shape
    structs = (ChoiceStruct * rows)()
    best = [np.empty(min(wish.num_best, size), np.int32) for wish in wishes]
    logprobs = [np.empty(len(ids), np.float64) for ids in best]
    for struct, wish, ids, values in zip(structs, wishes, best, logprobs, strict=True):
        struct.seen, struct.num_seen = address(wish.seen), len(wish.seen)
        struct.banned, struct.num_banned = address(wish.banned), len(wish.banned)
        if wish.mask is not None:
            struct.mask, struct.mask_bytes = address(wish.mask), len(wish.mask)
        struct.best, struct.best_logprobs, struct.num_best = address(ids), address(values), len(ids)
        struct.uniform, struct.temperature, struct.top_p = wish.uniform, wish.temperature, wish.top_p
        struct.penalty, struct.top_k, struct.is_greedy = wish.penalty, wish.top_k, wish.is_greedy
        struct.wants_logprob = wish.wants_logprob or wish.num_best > 0
    if functions.glm_choose(address(logits), rows, size, structs) != 0:
        raise MemoryError(f"There is no memory left to choose from {rows} rows of {size} logits.")
    found = zip(structs, best, logprobs, strict=True)
    return [Found(struct.token, struct.logprob, ids, values) for struct, ids, values in found]
