"""A kernel that changes parameters, among other reads and writes of them in one graph."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.ops.kernels.library import library
from mindformers_glm.ops.kernels.operators import writing_operator

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not built")
NUMBERS = np.array([0.1, 0, 0.9, 0.999, 1e-8, 1], np.float32)  # rate, decay, beta1, beta2, eps, factor


def zeros(name):
    return Parameter(Tensor(np.zeros((4, 8), np.float32)), name=name)


class Updates(nn.Cell):
    """Three updates, one of them in a branch, between views, copies and assignments."""

    def __init__(self, with_kernel):
        super().__init__()
        self.weight, self.mean, self.square, self.kept = (zeros(name) for name in "wmsk")
        self.kernel = writing_operator("GlmAdam") if with_kernel else None

    def update(self, gradient, numbers):
        if self.kernel is not None:
            self.kernel(self.weight, self.mean, self.square, gradient, numbers)
            return
        ops.assign(self.mean, self.mean * numbers[2] + gradient * (1 - numbers[2]))
        ops.assign(self.square, self.square * numbers[3] + gradient * gradient * (1 - numbers[3]))
        ops.assign(self.weight, self.weight - numbers[0] * self.mean / (ops.sqrt(self.square) + numbers[4]))

    def construct(self, x, numbers):
        ops.assign(self.weight, self.weight + x[:1])
        before = self.weight + 0
        self.update(x, numbers)
        first = ops.concat((self.weight.reshape(8, 4), x.reshape(8, 4)))
        if x.sum() > 0:
            self.update(x * 2, numbers)
            ops.assign(self.kept, self.weight)
        second = self.weight + 0
        self.update(-x, numbers)
        return before, first, second, self.kept * 1, self.weight * self.mean


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_reads_see_what_was_written_before_them(mode):
    was = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        with_kernel, plain = Updates(True), Updates(False)
        for turn in range(3):
            x = np.random.default_rng(turn).normal(size=(4, 8)).astype(np.float32) + (1 if turn else -1)
            given = Tensor(x), Tensor(NUMBERS)
            for ours, theirs in zip(with_kernel(*given), plain(*given), strict=True):
                np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), atol=1e-6)
    finally:
        ms.set_context(mode=was)
