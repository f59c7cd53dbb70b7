"""RMSNorm and LayerNorm over the last axis."""

from __future__ import annotations

from mindspore import Tensor, ops

_mean = ops.ReduceMean(keep_dims=True)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """The rows x / sqrt(mean(x^2) + eps) * weight, in the type of x. x (..., D), weight (D,).

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """
    return x / ops.sqrt(_mean(ops.square(x), -1) + eps) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, in the type of x. x (..., D), weight and bias (D,)."""
    x = x - _mean(x, -1)
    return x / ops.sqrt(_mean(ops.square(x), -1) + eps) * weight + bias
