"""Attention of grouped heads (GQA). Keys and values are never repeated: the query heads of a group become rows.

Shapes: B batch, T new tokens, S past slots, H query heads, K kv heads, G = H / K, E head_dim.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

MASKED = -1e4  # finite, so that a row without any key stays finite; exp(-1e4) is 0 in float32

_scores = ops.BatchMatMul(transpose_b=True)
_mix = ops.BatchMatMul()
_top, _total = ops.ReduceMax(keep_dims=True), ops.ReduceSum(keep_dims=True)


def group_rows(x: Tensor, *, batch: int, kv_heads: int, head_dim: int) -> Tensor:
    """Query heads as rows of their group: (N, H, E) -> (B, K, T * G, E), rows ordered (t, g)."""
    groups = x.shape[1] // kv_heads
    x = x.reshape(batch, -1, kv_heads, groups, head_dim).transpose(0, 2, 1, 3, 4)
    return x.reshape(batch, kv_heads, -1, head_dim)


def ungroup_rows(x: Tensor, *, batch: int, heads: int) -> Tensor:
    """The inverse, heads joined: (B, K, T * G, E) -> (N, H * E)."""
    kv_heads, head_dim = x.shape[1], x.shape[3]
    x = x.reshape(batch, kv_heads, -1, heads // kv_heads, head_dim).transpose(0, 2, 1, 3, 4)
    return x.reshape(-1, heads * head_dim)


def causal_mask(rows: Tensor, keys: Tensor) -> Tensor:
    """0 where the key is not after the row, MASKED elsewhere. rows (B, 1, R, 1), keys (B, 1, 1, S): positions."""
    return ops.cast(keys > rows, ms.float32) * MASKED


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, drop=None) -> Tensor:
    """Attention among the given tokens: softmax(q k^T + mask) v, (B, K, T * G, E).

    q (B, K, T * G, E) already scaled, k and v (B, K, T, E), mask (B or 1, 1, T * G, T). The softmax is float32
    whatever the type of v. `drop` is applied to the probabilities, where it is given.
    """
    probs = ops.softmax(ops.cast(_scores(q, k), ms.float32) + mask, -1)
    if drop is not None:
        probs = drop(probs)
    return _mix(ops.cast(probs, v.dtype), v)


def blocked_attention(q: Tensor, blocks: tuple, *, drop=None) -> Tensor:
    """Attention over several blocks of keys, which are not joined in memory: (B, K, T * G, E).

    q (B, K, T * G, E) already scaled; a block is (k, v, mask) with k and v (B, K, S, E) and a mask that broadcasts to
    (B, K, T * G, S), or None where every row sees every key.
    """
    scores, top = (), None
    for k, _, mask in blocks:
        score = ops.cast(_scores(q, k), ms.float32)
        if mask is not None:
            score = score + mask
        highest = _top(score, -1)
        top = highest if top is None else ops.maximum(top, highest)
        scores += (score,)
    top = ops.stop_gradient(top)
    total, mixed = 0.0, 0.0
    for i, (_, v, _) in enumerate(blocks):
        weight = ops.exp(scores[i] - top)
        total = total + _total(weight, -1)
        weight = weight if drop is None else drop(weight)
        mixed = mixed + _mix(ops.cast(weight, v.dtype), v)
    return mixed / ops.cast(total, mixed.dtype)
