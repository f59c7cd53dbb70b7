"""The MLP's activation."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindformers_glm.ops.ascend import AscendSwiGLU
from mindformers_glm.ops.kernels.operators import Chosen, operator


class SwiGLU(Chosen):
    """silu(gate) * up for rows [gate | up], in their type. Shazeer, GLU Variants Improve Transformer, 2020."""

    def __init__(self) -> None:
        super().__init__(on_ascend=AscendSwiGLU)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, 2 F) -> (N, F)."""
        return self.kernel(x) if self.kernel_fits(x) else _swiglu(x)


class SwiGLUWithGradient(Chosen):
    """SwiGLU with a gradient of its own, by a kernel where one fits."""

    def __init__(self) -> None:
        super().__init__(_SwiGLUKernel, on_ascend=AscendSwiGLU)
        self.formula = _SwiGLUFormula()

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, 2 F) -> (N, F)."""
        return self.kernel(x) if self.kernel_fits(x) else self.formula(x)


class _SwiGLUKernel(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.forward = operator("GlmSwiglu", lambda x: (x[0], x[1] // 2))
        self.back = operator("GlmSwigluBack", lambda x, dy: x)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (self.back(x, dout),)


class _SwiGLUFormula(nn.Cell):
    """SwiGLU whose gradient concatenates the halves instead of padding and adding them."""

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, 2 F) -> (N, F)."""
        return _swiglu(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """The gradient for x."""
        gate, up = _halves(x)
        open_ = ops.sigmoid(gate)
        silu = gate * open_
        dgate = dout * up * (open_ + silu - silu * open_)
        return (ops.concat((dgate, dout * silu), 1),)


def _swiglu(x: Tensor) -> Tensor:
    gate, up = _halves(x)
    return gate * ops.sigmoid(gate) * up


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    return x[:, :half], x[:, half:]
