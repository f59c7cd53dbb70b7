"""Attention: of a prompt, over a cache, of packed rows; by the formulas and by the kernels of CPUs.

Shapes: B batch, T tokens, S cache, H heads, K kv heads, G = H / K, E head_dim.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.conformance import reference
from mindformers_glm.conformance.check import KINDS, Answer, check
from mindformers_glm.conformance.checks.operators import KERNELS_OFF, kernel
from mindformers_glm.conformance.checks.positions import CHANNELS, HEADS, KV_HEADS, TOKENS, places
from mindformers_glm.conformance.device import array, tensor, value_and_gradients
from mindformers_glm.conformance.inputs import numbers, skip_on_cpu
from mindformers_glm.ops.attention import (
    AttentionWithGradient,
    CausalAttention,
    blocked_attention,
    causal_mask,
    join_heads,
    split_heads,
)

WIDTH = (HEADS + 2 * KV_HEADS) * CHANNELS
FIRST = np.array([[0, 0, 2, 2, 2], [0, 1, 1, 1, 4]], np.int32)  # packed rows: where the own sequence begins


def rows(batch: int, kind: str) -> np.ndarray:
    """Rows q | k | v (B * T, (H + 2 K) E)."""
    return numbers("q k v", batch * TOKENS, WIDTH, kind=kind)


def wanted_rows(x: np.ndarray, batch: int, first: np.ndarray | None = None) -> np.ndarray:
    """Attention of such rows by the reference."""
    return reference.self_attention(x, batch=batch, heads=HEADS, kv_heads=KV_HEADS, first=first)


def rows_answer(cell: nn.Cell, kind: str, first: np.ndarray | None = None) -> Answer:
    """A Cell (rows, cos, sin[, first]) -> rows beside the reference, with the gradient of the rows."""
    x, (cos, sin) = rows(2, kind), places(TOKENS)
    slope = numbers("attention slope", 2 * TOKENS, HEADS * CHANNELS)
    more = [] if first is None else [tensor(first)]
    given = [tensor(x, kind), tensor(cos), tensor(sin), *more]
    if kind == "bfloat16" and runtime.device_target() == "CPU":  # which has no gradient of a slice in bfloat16
        return Answer({"value": array(cell(*given))}, {"value": wanted_rows(x, 2, first)})
    found, grads = value_and_gradients(cell, slope, given, 1)
    return Answer(
        {"value": found, "gradient": grads[0]},
        {"value": wanted_rows(x, 2, first), "gradient": _gradient(x, slope, first)},
    )


def _gradient(x: np.ndarray, slope: np.ndarray, first: np.ndarray | None) -> np.ndarray:
    """Sequences do not touch each other: each one's gradient is computed alone."""
    parts = []
    for number, (own, beside) in enumerate(zip(np.split(x, 2), np.split(slope, 2), strict=True)):

        def mixed(copies: np.ndarray, number: int = number) -> np.ndarray:
            count = len(copies)
            seen = None if first is None else np.repeat(first[number : number + 1], count, 0)
            return wanted_rows(copies.reshape(count * TOKENS, -1), count, seen).reshape(count, TOKENS, -1)

        parts.append(reference.sequence_gradients(mixed, beside, own))
    return np.concatenate(parts)


class _Heads(nn.Cell):
    """Rows q | k | v, not turned, through the formulas."""

    def __init__(self, *, batch: int) -> None:
        super().__init__()
        self.batch, self.attention = batch, AttentionWithGradient()

    def construct(self, x: Tensor, positions: Tensor) -> Tensor:
        groups = HEADS // KV_HEADS
        heads = split_heads(x, batch=self.batch, heads=HEADS + 2 * KV_HEADS, head_dim=CHANNELS)
        q = heads[:, :HEADS].reshape(self.batch, KV_HEADS, -1, CHANNELS)
        k, v = heads[:, HEADS : HEADS + KV_HEADS], heads[:, HEADS + KV_HEADS :]
        mask = causal_mask(positions, groups=groups)
        return join_heads(self.attention(q, k, v, mask)[0], batch=self.batch, heads=HEADS)


@check("attention.mask", place="ops/attention.py: causal_mask")
def _mask(kind: str) -> Answer:
    positions = np.array([[0, 1, 2], [4, 5, 6]], np.int32)
    found = array(causal_mask(tensor(positions), groups=2))
    wanted = np.tile(np.where(reference.causal(2, 3), 0.0, -1e4), (1, 2, 1))[:, None]
    return Answer({"mask": found}, {"mask": wanted})


@check("attention", place="ops/attention.py: Attention, the formula", needs=["attention.mask"], kinds=KINDS)
def _attention(kind: str) -> Answer:
    skip_on_cpu(kind, runtime.device_target())
    x = numbers("plain q k v", 2 * TOKENS, WIDTH, kind=kind)
    positions = np.tile(np.arange(TOKENS, dtype=np.int32), (2, 1))

    def plain(part: np.ndarray) -> np.ndarray:
        q, k, v = reference.heads_of(part, len(part) // TOKENS, HEADS, KV_HEADS)
        seen = reference.causal(len(q), TOKENS)
        return reference.rows_of(reference.attention(q * CHANNELS**0.5, k, v, seen))

    slope = numbers("attention slope", 2 * TOKENS, HEADS * CHANNELS)
    found, grads = value_and_gradients(_Heads(batch=2), slope, [tensor(x, kind), tensor(positions)], 1)
    gradient = np.concatenate(
        [
            reference.sequence_gradients(
                lambda copies: plain(copies.reshape(-1, WIDTH)).reshape(len(copies), TOKENS, -1), beside, own
            )
            for own, beside in zip(np.split(x, 2), np.split(slope, 2), strict=True)
        ]
    )
    return Answer({"value": found, "gradient": grads[0]}, {"value": plain(x), "gradient": gradient})


class _Blocks(nn.Cell):
    """Queries over a cache and over themselves."""

    def construct(
        self, q: Tensor, past_k: Tensor, past_v: Tensor, past_mask: Tensor, k: Tensor, v: Tensor, mask: Tensor
    ) -> Tensor:
        return blocked_attention(q, ((past_k, past_v, past_mask), (k, v, mask)))


@check("attention.cache", place="ops/attention.py: blocked_attention", needs=["attention.mask"], kinds=KINDS)
def _cache(kind: str) -> Answer:
    """Two new tokens after 3 and 5 of 6 slots of a cache."""
    skip_on_cpu(kind, runtime.device_target())
    new, slots, past = 2, 6, np.array([3, 5])
    q = numbers("new q", 2, HEADS, new, CHANNELS, kind=kind)
    k, v = (numbers(f"new {part}", 2, KV_HEADS, new, CHANNELS, kind=kind) for part in "kv")
    old_k, old_v = (numbers(f"old {part}", 2, KV_HEADS, slots, CHANNELS, kind=kind) for part in "kv")
    hidden = (np.arange(slots) >= past[:, None])[:, None, None] * -1e4
    positions = tensor((past[:, None] + np.arange(new)).astype(np.int32))
    given = [q.reshape(2, KV_HEADS, -1, CHANNELS), old_k, old_v]
    mask = causal_mask(positions, groups=HEADS // KV_HEADS)
    found = _Blocks()(*(tensor(one, kind) for one in given), tensor(hidden), tensor(k, kind), tensor(v, kind), mask)
    seen = np.concatenate((np.repeat((np.arange(slots) < past[:, None])[:, None], new, 1), reference.causal(2, new)), 2)
    keys, values = np.concatenate((old_k, k), 2), np.concatenate((old_v, v), 2)
    wanted = reference.attention(q * CHANNELS**0.5, keys, values, seen)
    return Answer({"value": array(found)}, {"value": wanted.reshape(2, KV_HEADS, -1, CHANNELS)})


class _Packed(nn.Cell):
    def __init__(self, whole: CausalAttention) -> None:
        super().__init__(auto_prefix=False)
        self.whole = whole

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, first: Tensor) -> Tensor:
        return self.whole.packed(x, cos, sin, ops.cast(first, ms.int32))


@check("attention.kernel", place="ops/kernels: GlmAttention", switch_off=KERNELS_OFF)
def _attention_kernel(kind: str) -> Answer:
    return rows_answer(kernel(CausalAttention(heads=HEADS, head_dim=CHANNELS)), kind)


@check("attention.packed_kernel", place="ops/kernels: GlmPackedAttention", switch_off=KERNELS_OFF)
def _packed_kernel(kind: str) -> Answer:
    return rows_answer(_Packed(kernel(CausalAttention(heads=HEADS, head_dim=CHANNELS))), kind, FIRST)
