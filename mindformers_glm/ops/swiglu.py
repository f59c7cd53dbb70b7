"""The MLP's activation."""

from __future__ import annotations

from mindspore import Tensor, nn, ops


def swiglu(x: Tensor) -> Tensor:
    """The rows silu(gate) * up of rows [gate | up]. x (N, 2 F), result (N, F), computed in the type of x.

    Shazeer, GLU Variants Improve Transformer, 2020.
    """
    return _swiglu(x)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    return x[:, :half], x[:, half:]


class _SwiGLU(nn.Cell):
    """The formula with its gradient by hand: only x is kept, and halves are joined instead of padded and added."""

    def construct(self, x):
        gate, up = _halves(x)
        return gate * ops.sigmoid(gate) * up

    def bprop(self, x, out, dout):
        gate, up = _halves(x)
        open_ = ops.sigmoid(gate)
        silu = gate * open_
        dgate = dout * up * (open_ + silu - silu * open_)
        return (ops.concat((dgate, dout * silu), 1),)


_swiglu = _SwiGLU()
