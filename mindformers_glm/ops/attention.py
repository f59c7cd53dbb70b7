"""Attention of grouped heads (GQA). Keys and values are never repeated: the query heads of a group become rows.

Shapes: B batch, T new tokens, N = B * T tokens, S cached tokens, H query heads, K kv heads, G = H / K, E head_dim.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_glm.ops.ascend import FlashAttention, flash_has_heads
from mindformers_glm.ops.kernels.operators import Chosen, fits, operator

Shape: TypeAlias = tuple[int, ...]

MASKED = -1e4  # finite, so that a row without any key stays finite; exp(-1e4) is 0 in float32

_scores, _mix, _mix_back = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul(), ops.BatchMatMul(transpose_a=True)
_top, _total = ops.ReduceMax(keep_dims=True), ops.ReduceSum(keep_dims=True)


def split_heads(rows: Tensor, *, batch: int, heads: int, head_dim: int) -> Tensor:
    """Heads before tokens: (N, heads * E) -> (B, heads, T, E)."""
    return rows.reshape(batch, -1, heads, head_dim).transpose(0, 2, 1, 3)


def join_heads(x: Tensor, *, batch: int, heads: int) -> Tensor:
    """The result of attention with the heads of a token side by side: (B, K, G * T, E) -> (N, H * E)."""
    return x.reshape(batch, heads, -1, x.shape[3]).transpose(0, 2, 1, 3).reshape(-1, heads * x.shape[3])


def causal_mask(positions: Tensor, *, groups: int, keys: Tensor | None = None) -> Tensor:
    """0 where a key is not after its query, MASKED elsewhere: positions (B, T) -> (B, 1, G * T, T).

    `keys` (B, S) are the positions of the keys where they differ from `positions`.
    """
    batch = positions.shape[0]
    rows = ops.tile(positions, (1, groups)).reshape(batch, 1, -1, 1)
    columns = positions if keys is None else keys
    return ops.cast(columns.reshape(batch, 1, 1, -1) > rows, ms.float32) * MASKED


class Attention(nn.Cell):
    """Attention among the given tokens: softmax(q k^T + mask) v, the softmax in float32.

    `drop` is applied to the probabilities, where it is given.
    """

    def __init__(self, drop: nn.Cell | None = None):
        super().__init__()
        self.drop = drop

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, K, G * T, E), already scaled, k and v (B, K, T, E) -> (B, K, G * T, E), and the probabilities.

        The mask is (B or 1, 1, G * T, T) and added.
        """
        probs = ops.cast(ops.softmax(ops.cast(_scores(q, k), ms.float32) + mask, -1), v.dtype)
        probs = probs if self.drop is None else self.drop(probs)
        return _mix(probs, v), probs


class AttentionWithGradient(Attention):
    """Attention without dropout; for the gradient it keeps the probabilities and nothing else of their size."""

    def bprop(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients for q, k and v; the mask has none."""
        (mixed, probs), dmixed = out, dout[0]
        own = _total(ops.cast(dmixed * mixed, ms.float32), -1)  # sum over keys of dprobs * probs, on E columns, not T
        dscores = ops.cast((_scores(dmixed, v) - own) * probs, q.dtype)
        return _mix(dscores, k), _mix_back(dscores, q), _mix_back(probs, dmixed), ops.zeros_like(mask)


class CausalAttention(Chosen):
    """Rotary embedding and attention in one kernel, which has no formula: q | k | v of each token -> its heads.

    `takes` says whether it can be used; where not, `RotateHeads` and `Attention` compute the same. With `flash`,
    Ascend's operator is the kernel on Ascend.
    """

    def __init__(self, *, heads: int, head_dim: int, flash: bool = True):
        flash = flash and flash_has_heads(heads=heads, head_dim=head_dim)
        on_ascend = (lambda: FlashAttention(heads=heads, head_dim=head_dim)) if flash else None
        super().__init__(lambda: _CausalKernel(heads, head_dim), on_ascend=on_ascend)
        self.packed_kernel: Any = None if self.kernel is None or self.is_ascend else _PackedKernel(heads, head_dim)

    def takes(self, x: Tensor, cos: Tensor, mask: Tensor) -> bool:
        """Whether x (N, (H + 2 K) E) holds whole sequences from position 0 on with a causal mask.

        So it is where one `cos` (1, H + 2 K, T, E) and one `mask` (1, 1, G * T, T) are for all sequences.
        """
        if not (self.kernel_is_on and fits(cos)):
            return False
        takes = self.kernel.fits(x, cos) if self.is_ascend else fits(x)
        return takes and cos.shape[0] == 1 and mask.shape[0] == 1

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(N, (H + 2 K) E) -> (N, H E)."""
        if self.is_ascend:
            return self.kernel(x, cos, sin)
        return self.kernel(x, cos, sin)[0]  # the second output is for the backward pass

    def takes_packed(self, x: Tensor, cos: Tensor) -> bool:
        """Whether x (N, (H + 2 K) E) can be used, with several sequences packed into each T tokens."""
        if not (self.kernel_is_on and fits(cos)):
            return False
        if self.is_ascend:
            return cos.shape[0] == 1 and self.kernel.fits(x, cos)
        return fits(x) and self.packed_kernel is not None

    def packed(self, x: Tensor, cos: Tensor, sin: Tensor, first: Tensor) -> Tensor:
        """The same for packed sequences: a token sees keys from position `first` (B, T) up to its own.

        `cos` and `sin` (1 or B, H + 2 K, T, E): with B of them the kernel is called once for each row of the batch.
        """
        if self.is_ascend:
            return self.kernel(x, cos, sin, first)
        first, tokens = ops.cast(first, ms.float32), first.shape[1]
        if cos.shape[0] == 1:
            return self.packed_kernel(x, cos, sin, first)[0]
        rows: tuple[Tensor, ...] = ()
        for i in range(cos.shape[0]):
            own = x[i * tokens : (i + 1) * tokens]
            rows += (self.packed_kernel(own, cos[i : i + 1], sin[i : i + 1], first[i : i + 1])[0],)
        return ops.concat(rows, 0)


class _CausalKernel(nn.Cell):
    """Keeps the logarithm of each query's sum of scores; probabilities are computed again in the backward pass."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        width = heads * head_dim

        def shapes(x: Shape, cos: Shape, sin: Shape) -> tuple[Shape, Shape]:
            return (x[0], width), (x[0] // cos[2], heads, cos[2])

        self.forward = operator("GlmAttention", shapes, (ms.float32, ms.float32), told=f"{heads} heads")
        self.back = operator("GlmAttentionBack", lambda x, cos, sin, out, logs, dout: x)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, cos, sin)

    def bprop(self, x: Tensor, cos: Tensor, sin: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor, Tensor]:
        return self.back(x, cos, sin, out[0], out[1], dout[0]), ops.zeros_like(cos), ops.zeros_like(sin)


class _PackedKernel(nn.Cell):
    """`_CausalKernel` for packed sequences; it skips blocks of keys that no query of a block sees."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        width = heads * head_dim

        def shapes(x: Shape, cos: Shape, sin: Shape, first: Shape) -> tuple[Shape, Shape]:
            return (x[0], width), (x[0] // cos[2], heads, cos[2])

        self.forward = operator("GlmPackedAttention", shapes, (ms.float32, ms.float32), told=f"{heads} heads")
        self.back = operator("GlmPackedAttentionBack", lambda x, cos, sin, first, out, logs, dout: x)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, cos, sin, first)

    def bprop(
        self, x: Tensor, cos: Tensor, sin: Tensor, first: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grads = self.back(x, cos, sin, first, out[0], out[1], dout[0])
        return grads, ops.zeros_like(cos), ops.zeros_like(sin), ops.zeros_like(first)


def blocked_attention(q: Tensor, blocks: tuple, *, drop: nn.Cell | None = None) -> Tensor:
    """Attention over several blocks of keys without joining them in memory: (B, K, G * T, E).

    q (B, K, G * T, E) already scaled; a block is (k, v, mask) with k and v (B, K, S, E) and a mask that broadcasts to
    (B, K, G * T, S), or None where every query sees every key.
    """
    scores: tuple[Tensor, ...] = ()
    top: Tensor | None = None
    for k, _, mask in blocks:
        score = ops.cast(_scores(q, k), ms.float32)
        if mask is not None:
            score = score + mask
        highest = _top(score, -1)
        top = highest if top is None else ops.maximum(top, highest)
        scores += (score,)
    top = ops.stop_gradient(top)
    total: Tensor = 0.0
    mixed: Tensor = 0.0
    for i, (_, v, _) in enumerate(blocks):
        weight = ops.exp(scores[i] - top)
        total = total + _total(weight, -1)
        weight = weight if drop is None else drop(weight)
        mixed = mixed + _mix(ops.cast(weight, v.dtype), v)
    return mixed / ops.cast(total, mixed.dtype)
