"""The speed of float32 matmuls on this device: 100 % of figures such as MFU."""

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
    """Operations per second (a multiplication and an addition are two) of a float32 matmul of MindSpore.

    Where MindSpore is not installed, of NumPy.
    """
    x = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), np.float32)
    work = _numpy(x) if find_spec("mindspore") is None else _mindspore(x)
    work()
    return 2 * _SIZE**3 / best_seconds(work)


def best_seconds(work: Callable[[], Any]) -> float:
    """Seconds of the fastest round; rounds go on for half a second, and there are at least three."""
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
