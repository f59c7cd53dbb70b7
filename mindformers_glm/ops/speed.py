"""How fast the device multiplies matrices: what shares such as MFU are shares of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

_SIZE = 2048
_SECONDS = 0.5
_MIN_ROUNDS = 3


def matrix_speed() -> float:
    """Operations per second (a multiplication and an addition are two) of MindSpore's float32 matmul."""
    matmul = _Matmul()
    x = Tensor(np.random.default_rng(0).standard_normal((_SIZE, _SIZE), np.float32))
    matmul(x, x).asnumpy()
    return 2 * _SIZE**3 / best_seconds(lambda: matmul(x, x).asnumpy())


def best_seconds(work: Callable[[], Any]) -> float:
    """Seconds of the quickest of several rounds: half a second of them, three at least."""
    times: list[float] = []
    while len(times) < _MIN_ROUNDS or sum(times) < _SECONDS:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


class _Matmul(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        return self.matmul(a, b)
