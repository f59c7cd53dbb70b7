"""How fast the device multiplies matrices: what shares such as MFU are shares of."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

_SIZE = 2048
_SECONDS = 0.5
_MIN_ROUNDS = 3


def matrix_speed() -> float:
    """Operations per second (a multiplication and an addition are two) of MindSpore's float32 matmul.

    Of NumPy's where MindSpore is not installed.
    """
    x = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), np.float32)
    work = _numpy(x) if find_spec("mindspore") is None else _mindspore(x)
    work()
    return 2 * _SIZE**3 / best_seconds(work)


def best_seconds(work: Callable[[], Any]) -> float:
    """Seconds of the quickest of several rounds: half a second of them, three at least."""
    times: list[float] = []
    while len(times) < _MIN_ROUNDS or sum(times) < _SECONDS:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def _numpy(x: np.ndarray) -> Callable[[], Any]:
    return lambda: x @ x.T


def _mindspore(x: np.ndarray) -> Callable[[], Any]:
    from mindspore import Tensor, nn, ops  # noqa: PLC0415 - what generates by kernels does without

    class Matmul(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.matmul = ops.MatMul(transpose_b=True)

        def construct(self, a: Tensor, b: Tensor) -> Tensor:
            return self.matmul(a, b)

    matmul, held = Matmul(), Tensor(x)
    return lambda: matmul(held, held).asnumpy()
