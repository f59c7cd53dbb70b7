"""SwiGLU against numpy and its derived gradient."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import assert_derivative, both_gradients
from mindspore import Tensor, nn

from mindformers_glm.ops.swiglu import SwiGLU, SwiGLUWithGradient


class Cubed(nn.Cell):
    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def construct(self, x):
        return (self.activation(x) ** 3).sum()


def rows(count, half, scale=1.0):
    return Tensor(np.random.default_rng(0).normal(0, scale, (count, 2 * half)).astype(np.float32))


@pytest.mark.parametrize("count, half", [(1, 1), (3, 7), (65, 48)])
def test_rows_equal_numpy(count, half):
    x = rows(count, half)
    gate, up = np.split(x.asnumpy().astype(float), 2, -1)
    np.testing.assert_allclose(SwiGLUWithGradient()(x).asnumpy(), gate / (1 + np.exp(-gate)) * up, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count, half", [(1, 1), (65, 48)])
@pytest.mark.slow_where(lambda mode, count: mode == "graph" and count == 1)
def test_the_gradient_by_hand_is_the_derived_one(count, half, mode):
    both_gradients(Cubed(SwiGLU()), Cubed(SwiGLUWithGradient()), rows(count, half))


@pytest.mark.usefixtures("pynative")
def test_the_gradient_is_a_derivative():
    assert_derivative(Cubed(SwiGLUWithGradient()), rows(3, 4))


def test_large_gates_stay_finite():
    x = Tensor(np.array([[-200.0, 200.0, 3.0, 3.0]], np.float32))
    np.testing.assert_allclose(SwiGLUWithGradient()(x).asnumpy(), [[0, 600]], atol=1e-5)
