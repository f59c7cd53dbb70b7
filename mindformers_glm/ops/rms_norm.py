"""RMSNorm and LayerNorm over the last axis of rows."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

_mean, _matmul = ops.ReduceMean(keep_dims=True), ops.MatMul()


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """The rows x / sqrt(mean(x^2) + eps) * weight, in the type of x. x (N, D), weight (D,).

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """
    return _rms_norm(x, weight, eps)[0]


def rms_norm_beside(x: Tensor, weight: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """The normed rows of `rms_norm`, and x itself to be used from here on: a residual block's two branches.

    The gradients of both branches are added where the norm's is computed, without an operator of its own.
    """
    return _rms_norm(x, weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """The rows (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, in the type of x. x (N, D), weight, bias (D,)."""
    x = x - _mean(x, -1)
    return x * _inverse_size(x, eps) * weight + bias


def _inverse_size(x: Tensor, eps: float) -> Tensor:
    return 1 / ops.sqrt(_mean(ops.square(x), -1) + eps)


class _RmsNorm(nn.Cell):
    """The formula with its gradient by hand, in half the operators that the derived one takes.

    With s = 1 / sqrt(mean(x^2) + eps) and p = dy * x: dx = dy * w * s - x * s^3 * mean(p * w), dw = sum over rows of
    p * s; the two sums are small matrix products.
    """

    def construct(self, x, weight, eps):
        return x * _inverse_size(x, eps) * weight, x

    def bprop(self, x, weight, eps, out, dout):
        scale, (slope, beside) = _inverse_size(x, eps), dout
        product = slope * x
        shared = _matmul(product, weight.reshape(-1, 1)) * (scale * scale * scale / x.shape[1])
        dx = slope * weight * scale - x * shared + beside
        return dx, _matmul(scale.reshape(1, -1), product).reshape(-1), 0.0


_rms_norm = _RmsNorm()
