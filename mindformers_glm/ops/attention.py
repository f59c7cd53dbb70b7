"""Attention of grouped heads (GQA). Keys and values are never repeated: query heads of a group become rows.

Shapes: B batch, T new tokens, S past slots, H query heads, K kv heads, G = H / K, E head_dim.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

MASKED = -1e4  # finite: a row without any key stays finite too; exp(-1e4) is 0 in float32 for scores of normal size

_scores = ops.BatchMatMul(transpose_b=True)
_mix = ops.BatchMatMul()
_top, _total = ops.ReduceMax(keep_dims=True), ops.ReduceSum(keep_dims=True)


def group_rows(x: Tensor, *, batch: int, kv_heads: int, head_dim: int) -> Tensor:
    """Query heads as rows of their group: (B * T, H, E) -> (B, K, T * G, E), rows ordered (t, g)."""
    groups = x.shape[1] // kv_heads
    x = x.reshape(batch, -1, kv_heads, groups, head_dim).transpose(0, 2, 1, 3, 4)
    return x.reshape(batch, kv_heads, -1, head_dim)


def ungroup_rows(x: Tensor, *, batch: int, heads: int) -> Tensor:
    """The inverse, heads joined: (B, K, T * G, E) -> (B * T, H * E)."""
    kv_heads, head_dim = x.shape[1], x.shape[3]
    x = x.reshape(batch, kv_heads, -1, heads // kv_heads, head_dim).transpose(0, 2, 1, 3, 4)
    return x.reshape(-1, heads * head_dim)


def causal_mask(rows: Tensor, keys: Tensor) -> Tensor:
    """0 where the key is not after the row, MASKED elsewhere. rows (B, 1, R, 1), keys (B, 1, 1, S): positions."""
    return ops.cast(keys > rows, ms.float32) * MASKED


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, drop=None) -> Tensor:
    """softmax(q k^T + mask) v. q (B, K, T * G, E) already scaled, k and v (B, K, T, E), mask (B or 1, 1, T * G, T).

    The softmax is float32 whatever the type of v. `drop` is applied to the probabilities, where it is given.
    """
    probs = ops.softmax(ops.cast(_scores(q, k), ms.float32) + mask, -1)
    if drop is not None:
        probs = drop(probs)
    return _mix(ops.cast(probs, v.dtype), v)


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, past_k: Tensor, past_v: Tensor, past_mask: Tensor
) -> Tensor:
    """Attention over past and new keys together, which are not joined in memory: (B, K, T * G, E).

    q (B, K, T * G, E) already scaled; k, v (B, K, T, E); past_k, past_v (B, K, S, E); mask (B, 1, T * G, T);
    past_mask (B, 1, 1, S) hides unused slots.
    """
    old = ops.cast(_scores(q, past_k), ms.float32) + past_mask
    new = ops.cast(_scores(q, k), ms.float32) + mask
    top = ops.maximum(_top(old, -1), _top(new, -1))
    old, new = ops.exp(old - top), ops.exp(new - top)
    total = ops.cast(_total(old, -1) + _total(new, -1), v.dtype)
    return (_mix(ops.cast(old, v.dtype), past_v) + _mix(ops.cast(new, v.dtype), v)) / total
