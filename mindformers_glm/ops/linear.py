"""y = x W^T + b."""

from __future__ import annotations

from mindspore import Tensor, ops

_matmul = ops.MatMul(transpose_b=True)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The rows x W^T + b, in the type of x. x (N, in), weight (out, in), bias (out,)."""
    y = _matmul(x, ops.cast(weight, x.dtype))
    return y if bias is None else y + ops.cast(bias, x.dtype)
