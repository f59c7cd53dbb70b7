"""y = x W^T + b. Shapes: N rows of W, D columns, g group, P packed columns (quantized.py)."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_glm.ops.kernels import halves
from mindformers_glm.ops.kernels.operators import Chosen, operator
from mindformers_glm.ops.quantized import BLOCK, ZERO
from mindformers_glm.runtime import device_target

_BFLOAT16 = "bfloat16"
_matmul, _floor = ops.MatMul(transpose_b=True), ops.Floor()


def matrix_type(name: str) -> tuple[ms.Type, bool]:
    """The type of the operands of matmuls in `compute_dtype` `name`, and whether matmuls round them.

    MindSpore has no bfloat16 matmuls on a CPU: operands are float32 there, and matmuls keep 11 bits of each number,
    three more than bfloat16 has.
    """
    if name == _BFLOAT16 and device_target() == "CPU":
        return ms.float32, True
    return getattr(ms, name), False


def multiplies(name: str) -> bool:
    """Whether this device has matmuls in `compute_dtype` `name` that are worth having."""
    return halves.multiplies(name, device_target())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b, in the type of x. x (N, in), weight (out, in), bias (out,)."""
    y = _matmul(x, ops.cast(weight, x.dtype))
    return y if bias is None else y + ops.cast(bias, x.dtype)


def quantized_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, bits: int, columns: int
) -> Tensor:
    """X W^T + b, in the type of x, for an integer weight (N, D or P) with scale (N, D / g). x (., D)."""
    return linear(x, widened(weight, scale, bits=bits, columns=columns), bias)


def widened(weight: Tensor, scale: Tensor, *, bits: int, columns: int) -> Tensor:
    """The float32 weight (N, D) of integers (N, D or P) with scale (N, D / g)."""
    whole = ops.cast(weight, ms.float32)
    if bits == 4:
        high = _floor(whole * 0.0625)
        halves = ops.stack((whole - 16 * high, high), 1).reshape(whole.shape[0], 2, -1, BLOCK // 2)
        whole = halves.transpose(0, 2, 1, 3).reshape(whole.shape[0], -1)[:, :columns] - ZERO
    groups = whole.reshape(*scale.shape, -1) * ops.cast(scale, ms.float32).expand_dims(2)
    return groups.reshape(-1, columns)


class QuantizedMatmul(Chosen):
    """`quantized_linear`, by a kernel where one fits.

    In training the kernel dequantises the weight a few panels at a time and multiplies floats, forward and backward;
    otherwise it also rounds x to 8 bits, which is faster and has no gradient. `rounded` is for training: see Matmul.
    """

    def __init__(self, *, bits: int, columns: int, rounded: bool = False):
        super().__init__(lambda: _QuantizedKernel(bits))
        self.exact: Any = _ExactQuantizedKernel(bits, columns, rounded) if self.kernel is not None else None
        self.bits, self.columns = bits, columns

    def construct(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rows (M, D) -> (M, N) for weight (N, D or P), scale (N, D / g), bias (N,)."""
        if not self.kernel_fits(x):
            return quantized_linear(x, weight, scale, bias, bits=self.bits, columns=self.columns)
        y = self.exact(x, weight, scale) if self.training else self.kernel(x, weight, scale)
        return y if bias is None else y + ops.cast(bias, ms.float32)


class _QuantizedKernel(nn.Cell):
    def __init__(self, bits: int):
        super().__init__()
        self.forward = operator(f"GlmLinearInt{bits}", lambda x, w, scale: (x[0], w[0]))

    def construct(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return self.forward(x, weight, scale)


class _ExactQuantizedKernel(nn.Cell):
    def __init__(self, bits: int, columns: int, rounded: bool) -> None:
        super().__init__()
        kind = f"Int{bits}{'Half' if rounded else ''}"
        self.forward = operator(f"GlmLinearExact{kind}", lambda x, w, scale: (x[0], w[0]))
        self.back_x = operator(f"GlmLinearBackX{kind}", lambda dy, w, scale: (dy[0], columns), told=str(columns))

    def construct(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return self.forward(x, weight, scale)

    def bprop(
        self, x: Tensor, weight: Tensor, scale: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # x is not among its inputs: it would be kept until then
        return self.back_x(dout, weight, scale), ops.zeros_like(weight), ops.zeros_like(scale)


class Matmul(Chosen):
    """`linear`, by a kernel where one fits. With `rounded`, operands keep 11 bits and sums are float32. `doubles` is
    for inference: the kernel multiplies and adds in float64. See matmul.h.
    """

    def __init__(self, *, rounded: bool = False, doubles: bool = False):
        kind = "Half" if rounded else "Double" if doubles else ""
        super().__init__(lambda: _PlainMatmul(rounded, kind))
        self.biased: Any = _BiasedMatmul(rounded, kind) if self.kernel is not None else None

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rows (N, in) -> (N, out) for weight (out, in), bias (out,)."""
        if not self.kernel_fits(x):
            return linear(x, weight, bias)
        weight = ops.cast(weight, ms.float32)
        if bias is None:
            return self.kernel(x, weight)
        return self.biased(x, weight, ops.cast(bias, ms.float32))


class _Matmul(nn.Cell):
    """Base of both kernels: the gradients for x and for the weight."""

    def __init__(self, rounded: bool):
        super().__init__()
        kind = "Half" if rounded else ""
        self.back_x = operator(f"GlmLinearBackX{kind}", lambda dy, w: (dy[0], w[1]))
        self.back_weight = operator(f"GlmLinearBackWeight{kind}", lambda dy, x: (dy[1], x[1]))


class _PlainMatmul(_Matmul):
    def __init__(self, rounded: bool, kind: str):
        super().__init__(rounded)
        self.forward = operator(f"GlmLinear{kind}", lambda x, w: (x[0], w[0]))

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(x, weight)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return self.back_x(dout, weight), self.back_weight(dout, x)


class _BiasedMatmul(_Matmul):
    def __init__(self, rounded: bool, kind: str):
        super().__init__(rounded)
        self.forward = operator(f"GlmLinearBias{kind}", lambda x, w, b: (x[0], w[0]))
        self.back_bias = operator("GlmLinearBackBias", lambda dy: (dy[1],))

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(
        self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.back_x(dout, weight), self.back_weight(dout, x), self.back_bias(dout)
