"""Clipping by global norm against the formula."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindformers_glm.optim import SquaredNorm, clip_coefficient, scale_gradients

SHAPES = [(7, 5), (48,), (2, 3, 8)]


class Clip(nn.Cell):
    def __init__(self, max_norm):
        super().__init__()
        self.square, self.max_norm = SquaredNorm(), max_norm

    def construct(self, grads):
        norm = ms.ops.sqrt(self.square(grads))
        return norm, scale_gradients(grads, clip_coefficient(norm, self.max_norm))


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"], autouse=True)
def mode(request):
    ms.set_context(mode=request.param)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize(("size", "max_norm"), [(10.0, 1.0), (1e-3, 1.0), (1.0, 0.37)])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_clip_equals_the_formula(size, max_norm, kind):
    rng = np.random.default_rng(0)
    grads = [(rng.standard_normal(shape) * size).astype(kind) for shape in SHAPES]
    norm, clipped = Clip(max_norm)(ms.mutable(tuple(Tensor(grad) for grad in grads)))
    wanted = np.sqrt(sum(np.square(grad.astype(np.float64)).sum() for grad in grads))
    assert float(norm.asnumpy()) == pytest.approx(wanted, rel=1e-6)
    factor = min(1.0, max_norm / (wanted + 1e-6))
    for found, grad in zip(clipped, grads, strict=True):
        assert found.dtype == ms.float32
        np.testing.assert_allclose(found.asnumpy(), grad.astype(np.float64) * factor, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_bad_element_shows_in_the_norm(bad):
    grads = [np.ones(shape, np.float32) for shape in SHAPES]
    grads[1][7] = bad
    square = SquaredNorm()(ms.mutable(tuple(Tensor(grad) for grad in grads)))
    assert not np.isfinite(square.asnumpy())


def test_the_sum_of_many_squares_keeps_its_digits():
    grad = np.random.default_rng(1).standard_normal(2_000_000).astype(np.float32) * 1e-3
    square = SquaredNorm()((Tensor(grad),))
    assert float(square.asnumpy()) == pytest.approx(np.square(grad.astype(np.float64)).sum(), rel=2e-6)
