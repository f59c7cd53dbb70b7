"""y = x W^T + b. Shapes: N rows of W, D columns, g group, P packed columns (quantized.py)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from mindformers_glm.ops.quantized import BLOCK, ZERO

_matmul, _floor = ops.MatMul(transpose_b=True), ops.Floor()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The rows x W^T + b, in the type of x. x (N, in), weight (out, in), bias (out,)."""
    y = _matmul(x, ops.cast(weight, x.dtype))
    return y if bias is None else y + ops.cast(bias, x.dtype)


def quantized_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, bits: int, columns: int
) -> Tensor:
    """The rows x W^T + b, in the type of x, of an integer weight (N, D or P) with scale (N, D / g). x (., D)."""
    whole = ops.cast(weight, ms.float32)
    if bits == 4:
        high = _floor(whole / 16)
        halves = ops.stack((whole - 16 * high, high), 1).reshape(whole.shape[0], 2, -1, BLOCK // 2)
        whole = halves.transpose(0, 2, 1, 3).reshape(whole.shape[0], -1)[:, :columns] - ZERO
    groups = whole.reshape(*scale.shape, -1) * ops.cast(scale, ms.float32).expand_dims(2)
    return linear(x, groups.reshape(-1, columns), bias)
