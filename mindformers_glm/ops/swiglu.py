"""The MLP's activation."""

from __future__ import annotations

from mindspore import Tensor, ops


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up of rows [gate | up]. x (N, 2 F), result (N, F), computed in the type of x.

    Shazeer, GLU Variants Improve Transformer, 2020.
    """
    half = x.shape[-1] // 2
    gate, up = x[:, :half], x[:, half:]
    return gate * ops.sigmoid(gate) * up
