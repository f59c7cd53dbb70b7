"""Calls every operator of a kernel library as MindSpore does, on arrays that are exactly as long as they must be.

`python operator_calls.py LIBRARY`: for a library that watches its memory (tests/ops/test_kernels_bounds.py). Without
MindSpore, which is no help to a sanitizer.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np

RANDOM = np.random.RandomState(0)


def numbers(*shape: int) -> np.ndarray:
    """Normal numbers in float32."""
    return RANDOM.randn(*shape).astype(np.float32)


def call(library: ctypes.CDLL, name: str, *inputs: np.ndarray, out: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
    """The outputs of these shapes; an operator that fails raises RuntimeError."""
    made = [np.full(shape, np.nan, np.float32) for shape in out]
    arrays = [*inputs, *made]
    data = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
    ranks = (ctypes.c_int * len(arrays))(*[array.ndim for array in arrays])
    sizes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    shapes = (ctypes.POINTER(ctypes.c_int64) * len(arrays))(
        *[ctypes.cast(size, ctypes.POINTER(ctypes.c_int64)) for size in sizes]
    )
    if getattr(library, name)(len(arrays), data, ranks, shapes, None, None, None):
        raise RuntimeError(name)
    return made


def products(library: ctypes.CDLL, rows: int, columns: int, outs: int) -> None:
    """The operators of a linear layer."""
    x, weight, bias, slope = numbers(rows, columns), numbers(outs, columns), numbers(outs), numbers(rows, outs)
    for kind in ("", "Half"):
        call(library, "GlmLinear" + kind, x, weight, out=((rows, outs),))
        call(library, "GlmLinearBias" + kind, x, weight, bias, out=((rows, outs),))
        call(library, "GlmLinearBackX" + kind, slope, weight, out=((rows, columns),))
        call(library, "GlmLinearBackWeight" + kind, slope, x, out=((outs, columns),))
    call(library, "GlmLinearBackBias", slope, out=((outs,),))


def rows_alone(library: ctypes.CDLL, rows: int, width: int) -> None:
    """Norm, activation, norm of gradients and update."""
    x, weight, eps, wide = numbers(rows, width), numbers(width), np.array([1e-5], np.float32), numbers(rows, 2 * width)
    call(library, "GlmRmsNorm", x, weight, eps, out=((rows, width),))
    call(library, "GlmRmsNormBack", x, weight, eps, x + 1, x + 2, out=((rows, width), (width,)))
    call(library, "GlmSwiglu", wide, out=((rows, width),))
    call(library, "GlmSwigluBack", wide, x, out=((rows, 2 * width),))
    call(library, "GlmSquares", x, out=((1,),))
    rates = np.array([1e-3, 1e-4, 0.9, 0.999, 1e-8, 0.5], np.float32)
    call(library, "GlmAdam", x, x * 0, x * 0, x + 1, rates, out=((1,),))


def attention(library: ctypes.CDLL, batch: int, tokens: int, heads: int, kv_heads: int, channels: int) -> None:
    """Causal attention, forward and backward."""
    planes = heads + 2 * kv_heads
    qkv, slope = numbers(batch * tokens, planes * channels), numbers(batch * tokens, heads * channels)
    cos, sin = numbers(1, planes, tokens, channels), numbers(1, planes, tokens, channels)
    outs = (slope.shape, (batch, heads, tokens))
    mixed, logs = call(library, "GlmAttention", qkv, cos, sin, out=outs)
    call(library, "GlmAttentionBack", qkv, cos, sin, mixed, logs, slope, out=(qkv.shape,))


def loss(library: ctypes.CDLL, rows: int, width: int, classes: int) -> None:
    """Cross entropy of the output layer."""
    hidden, weight = numbers(rows, width), numbers(classes, width)
    target = RANDOM.randint(0, classes, (rows, 1)).astype(np.int32)
    share = (RANDOM.rand(rows, 1) > 0.3).astype(np.float32) / rows
    for kind in ("", "Half"):
        given = (hidden, weight, target, share)
        call(library, "GlmHeadLoss" + kind, *given, out=((1,), hidden.shape, weight.shape))
        call(library, "GlmFrozenHeadLoss" + kind, *given, out=((1,), hidden.shape))
        call(library, "GlmHeadWeight" + kind, *given, out=(weight.shape,))


def main() -> None:
    """Every operator over odd sizes."""
    library = ctypes.CDLL(sys.argv[1])
    library.glm_set_threads(2)
    for sizes in ((1, 1, 1), (3, 5, 7), (15, 17, 33), (37, 530, 65), (130, 20, 129), (1, 70, 200), (200, 70, 1)):
        products(library, *sizes)
    for sizes in ((1, 1), (3, 7), (33, 16), (40, 65), (3, 70001)):
        rows_alone(library, *sizes)
    for sizes in ((1, 1, 2, 1, 4), (2, 5, 4, 2, 8), (2, 33, 4, 2, 16), (1, 70, 6, 2, 20), (1, 129, 2, 1, 64)):
        attention(library, *sizes)
    for sizes in ((1, 3, 2), (7, 20, 50), (33, 24, 300)):
        loss(library, *sizes)
    print("all operators called")


if __name__ == "__main__":
    main()
