"""MindSpore's operators for Ascend as its documentation describes them, in formulas that a CPU has.

Arguments that the documentation rules out raise ValueError. Signatures are those of the real functions, which
tests/ops/test_ascend.py checks. The kit runs them on a CPU in the place of the operators, which shows that the calls
mean the formulas, and nothing about a device.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, ops

FLOATS = (ms.float16, ms.float32, ms.bfloat16)
LONGEST = 2147483647


def need(condition: bool, what: str) -> None:
    """Raises ValueError where the documentation's condition does not hold."""
    if not condition:
        raise ValueError(what)


def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Gives x / sqrt(mean(x^2) + epsilon) * gamma and 1 / sqrt(...), over the last axis."""
    need(x.dtype in FLOATS and gamma.dtype == x.dtype, "types")
    need(isinstance(epsilon, float) and 0 < epsilon <= 1, "epsilon")
    need(gamma.shape == x.shape[-1:], "gamma")
    wide = ops.cast(x, ms.float32)
    scale = 1 / ops.sqrt((wide * wide).mean(-1, keep_dims=True) + epsilon)
    return ops.cast(wide * scale * ops.cast(gamma, ms.float32), x.dtype), scale


def swiglu(input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002 - MindSpore's name
    """Gives a sigmoid(a) b for the first half a and the second half b of axis `dim`."""
    need(input.dtype in FLOATS and input.shape[dim] % 2 == 0 and dim == -1, "input")
    half = input.shape[-1] // 2
    wide = ops.cast(input, ms.float32)  # before it is cut: a CPU has no gradient of a slice in bfloat16
    a, b = wide[..., :half], wide[..., half:]
    return ops.cast(a / (1 + ops.exp(-a)) * b, input.dtype)


def rotary_position_embedding(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
    """Gives x cos + turned(x) sin, where mode 1 turns neighbours: (a, b) -> (-b, a). x BNSD, cos and sin 11SD."""
    need(mode == 1 and x.ndim == 4 and x.dtype in FLOATS and cos.dtype == x.dtype == sin.dtype, "types")
    batch, heads, tokens, width = x.shape
    need(cos.shape == sin.shape == (1, 1, tokens, width) and width < 896 and width % 2 == 0, "layout")
    need(batch < 1000 and heads < 1000 and batch * heads <= 8 * tokens, "not to be called")
    need(all(float(part.abs().max()) <= 1 for part in (cos, sin)), "range")
    turned = ops.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)
    return x * cos + turned * sin


def flash_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    real_shift: Tensor | None = None,
    drop_mask: Tensor | None = None,
    padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    prefix: Tensor | None = None,
    actual_seq_qlen: Tensor | None = None,
    actual_seq_kvlen: Tensor | None = None,
    keep_prob: float = 1.0,
    scalar_value: float = 1.0,
    pre_tokens: int = LONGEST,
    next_tokens: int = LONGEST,
    inner_precise: int = 0,
    input_layout: str = "BSH",
    sparse_mode: int = 0,
) -> tuple[Tensor, ...]:
    """Gives softmax(mask(scalar_value query key^T)) value for BNSD, sparse_mode 1 and 2; one head after the other.

    Mode 2 is the lower triangle from the upper left corner; its mask is always (2048, 2048), 1 where nothing is seen.
    Mode 1 takes a whole mask (B, 1, S, S), 1 where nothing is seen.
    """
    absent = (real_shift, drop_mask, padding_mask, prefix, actual_seq_qlen, actual_seq_kvlen)
    need(all(part is None for part in absent) and keep_prob == 1.0 and inner_precise == 0, "unused here")
    need(input_layout == "BNSD" and sparse_mode in (1, 2) and isinstance(scalar_value, float), "mode")
    need(query.dtype in (ms.float16, ms.bfloat16) and key.dtype == value.dtype == query.dtype, "types")
    batch, heads, tokens, width = query.shape
    need(key.shape == value.shape and key.shape[0] == batch and key.shape[2:] == (tokens, width), "shapes")
    need(head_num == heads <= 256 and heads % key.shape[1] == 0, "heads")
    need(width % 16 == 0 and width <= 512 and batch <= 2000 and tokens <= 512_000, "sizes")
    mask: Any = attn_mask
    need(isinstance(mask, Tensor) and mask.dtype in (ms.uint8, ms.bool_), "mask")
    if sparse_mode == 1:
        need(mask.shape == (batch, 1, tokens, tokens), "mask")
        hidden = ops.cast(mask[:, 0], ms.float32) * -1e9
    else:
        corner = mask.asnumpy()
        triangle = [int(corner[place]) for place in ((0, 0), (0, 1), (1, 0), (7, 7), (7, 8), (-1, 0), (0, -1))]
        need(corner.shape == (2048, 2048) and triangle == [0, 1, 0, 0, 1, 0, 1], "mask")
        hidden = ops.cast(mask[:tokens, :tokens], ms.float32) * -1e9
    group = heads // key.shape[1]
    wide = [ops.cast(part, ms.float32) for part in (query, key, value)]
    found = []
    for head in range(heads):
        q, k, v = (part[:, i] for part, i in zip(wide, (head, head // group, head // group), strict=True))
        scores = ops.BatchMatMul(transpose_b=True)(q, k) * scalar_value + hidden
        found.append(ops.BatchMatMul()(ops.softmax(scores, -1), v))
    return ops.cast(ops.stack(found, 1), query.dtype)
