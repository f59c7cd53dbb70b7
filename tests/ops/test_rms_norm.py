"""RMSNorm and LayerNorm against numpy, gradients against the derived ones and finite differences."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from gradients import assert_derivative, both_gradients
from mindspore import Tensor, nn

from mindformers_glm.ops.rms_norm import RmsNorm, RmsNormWithGradient, layer_norm

RNG = np.random.default_rng(0)


def tensors(rows, width):
    return Tensor(RNG.normal(size=(rows, width)).astype(np.float32)), Tensor(RNG.normal(size=width).astype(np.float32))


class Both(nn.Cell):
    """A number that depends on both results."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def construct(self, x, weight):
        normed, beside = self.norm(x, weight)
        return (normed**3).sum() + (beside * 0.7).sum()


@pytest.mark.parametrize("rows, width", [(1, 1), (1, 64), (7, 33), (130, 5)])
def test_rows_equal_numpy(rows, width):
    x, weight = tensors(rows, width)
    normed, beside = RmsNormWithGradient(1e-5)(x, weight)
    wide = x.asnumpy().astype(float)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight.asnumpy()
    np.testing.assert_allclose(normed.asnumpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(beside.asnumpy(), x.asnumpy())


@pytest.mark.parametrize("rows, width", [(1, 1), (7, 33), (130, 5)])
@pytest.mark.slow_where(lambda mode, rows: mode == "graph" and rows != 7)
def test_the_gradient_by_hand_is_the_derived_one(rows, width, mode):
    both_gradients(Both(RmsNorm(1e-2)), Both(RmsNormWithGradient(1e-2)), *tensors(rows, width))


@pytest.mark.usefixtures("pynative")
def test_the_gradient_is_a_derivative():
    assert_derivative(Both(RmsNormWithGradient(1e-2)), *tensors(4, 9))


@pytest.mark.usefixtures("pynative")
def test_a_row_of_zeros_and_half_precision_are_finite():
    normed, _ = RmsNormWithGradient(1e-5)(Tensor(np.zeros((2, 8), np.float32)), Tensor(np.ones(8, np.float32)))
    assert not normed.asnumpy().any()
    x, weight = (tensor.astype(ms.float16) for tensor in tensors(3, 16))
    assert RmsNormWithGradient(1e-5)(x, weight)[0].dtype == ms.float16


def test_layer_norm_equals_numpy():
    x, weight = tensors(5, 12)
    bias = Tensor(RNG.normal(size=12).astype(np.float32))
    wide = x.asnumpy().astype(float)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    ours = layer_norm(x, weight, bias, eps=1e-5).asnumpy()
    np.testing.assert_allclose(ours, expected * weight.asnumpy() + bias.asnumpy(), rtol=1e-4, atol=1e-5)
