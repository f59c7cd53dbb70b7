"""RMSNorm and LayerNorm over the last axis."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm.ops.ascend import AscendRmsNorm
from mindformers_glm.ops.kernels.operators import Chosen, operator

_mean, _matmul = ops.ReduceMean(keep_dims=True), ops.MatMul()


class RmsNorm(Chosen):
    """x / sqrt(mean(x^2) + eps) * weight for each row x, in the type of x.

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """

    def __init__(self, eps: float):
        super().__init__(on_ascend=lambda: AscendRmsNorm(eps))
        self.eps = eps

    def construct(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """X (N, D) normalised by row, times weight (D,); and x itself, for the residual connection."""
        if self.kernel_fits(x) and weight.dtype == x.dtype:
            return self.kernel(x, weight)
        return _rms_norm(x, weight, self.eps), x


class RmsNormWithGradient(Chosen):
    """RmsNorm with a gradient of its own, by a kernel where one fits."""

    def __init__(self, eps: float):
        super().__init__(lambda: _RmsNormKernel(eps), on_ascend=lambda: AscendRmsNorm(eps))
        self.formula = _RmsNormFormula(eps)

    def construct(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See RmsNorm."""
        if self.kernel_fits(x) and weight.dtype == x.dtype:
            return self.kernel(x, weight)
        return self.formula(x, weight)


class _RmsNormFormula(nn.Cell):
    """RmsNorm in half the operators that the derived gradient takes.

    With s = 1 / sqrt(mean(x^2) + eps) and p = dy * x: dx = dy * w * s - x * s^3 * mean(p * w), dw = sum over rows of
    p * s; both sums are small matmuls. The gradient that arrives for the second output, x, is added in the same pass.
    """

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def construct(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See RmsNorm."""
        return _rms_norm(x, weight, self.eps), x

    def bprop(self, x: Tensor, weight: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor]:
        """Gradients for x and weight."""
        scale, (slope, beside) = _inverse_size(x, self.eps), dout
        product = slope * x
        shared = _matmul(product, weight.reshape(-1, 1)) * (scale * scale * scale / x.shape[1])
        dx = slope * weight * scale - x * shared + beside
        return dx, _matmul(scale.reshape(1, -1), product).reshape(-1)


class _RmsNormKernel(nn.Cell):
    def __init__(self, eps: float):
        super().__init__()
        self.eps = Tensor(np.array([eps], np.float32))
        self.forward = operator("GlmRmsNorm", lambda x, w, eps: x)
        self.back = operator("GlmRmsNormBack", lambda x, w, eps, slope, beside: (x, w), (ms.float32, ms.float32))

    def construct(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, weight, self.eps), x

    def bprop(self, x: Tensor, weight: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor]:
        return self.back(x, weight, self.eps, dout[0], dout[1])


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias for each row x, in its type. x (N, D), weight, bias (D,)."""
    x = x - _mean(x, -1)
    return x * _inverse_size(x, eps) * weight + bias


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * _inverse_size(x, eps) * weight


def _inverse_size(x: Tensor, eps: float) -> Tensor:
    return 1 / ops.sqrt(_mean(ops.square(x), -1) + eps)
