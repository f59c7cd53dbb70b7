"""The compiled matmul and the operators made of it, against numpy and the formulas."""

from __future__ import annotations

import ctypes

import mindspore as ms
import numpy as np
import pytest
from gradients import assert_derivative
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn

from mindformers_glm.ops.kernels import build
from mindformers_glm.ops.kernels.library import features, library
from mindformers_glm.ops.linear import Matmul, linear

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not built")
VARIANTS = [variant for variant in build.variants() if set(variant.features) <= features()]
SIZES = st.one_of(st.integers(1, 40), st.sampled_from((64, 127, 200, 513)))


def multiply(a, b, *, across=(False, False), bias=None, onto=None, rounded=False, kernels=None):
    """What glm_matmul makes of a (m, k) and b (n, k), each given to it in the order that `across` says."""
    (m, k), n = a.shape, len(b)
    out = np.full((m, n), np.nan, np.float32) if onto is None else onto.copy()
    given_a, given_b = (np.ascontiguousarray(x.T if turned else x) for x, turned in zip((a, b), across, strict=True))
    pointer = [None if x is None else x.ctypes.data_as(ctypes.c_void_p) for x in (given_a, given_b, out, bias)]
    sizes = [ctypes.c_int64(size) for size in (m, n, k)]
    (kernels or library()).glm_matmul(
        *pointer[:3], *sizes, *map(int, across), pointer[3], int(onto is not None), int(rounded)
    )
    return out


@settings(max_examples=60, deadline=None)
@given(
    m=SIZES, n=SIZES, k=SIZES, across=st.tuples(st.booleans(), st.booleans()), extras=st.tuples(*[st.booleans()] * 3)
)
def test_matmul_equals_numpy(m, n, k, across, extras):
    random = np.random.RandomState(m + 1000 * n + k)
    a, b, bias, onto = (random.randn(*shape).astype(np.float32) for shape in ((m, k), (n, k), (n,), (m, n)))
    biased, added, rounded = extras
    found = multiply(a, b, across=across, bias=bias if biased else None, onto=onto if added else None, rounded=rounded)
    wanted = a.astype(np.float64) @ b.T.astype(np.float64) + biased * bias + added * onto
    assert np.abs(found - wanted).max() < (1.5e-2 if rounded else 5e-6) * np.sqrt(k) + 1e-6


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_panels_packed_at_once_leave_each_other_alone(variant):
    """Every build, with threads that pack neighbouring panels at the same time."""
    kernels = ctypes.CDLL(str(build.library_path(variant)))
    kernels.glm_set_threads(2)
    random = np.random.RandomState(0)
    for k in (16, 64, 250):
        a, b = random.randn(530, k).astype(np.float32), random.randn(600, k).astype(np.float32)
        wanted = a.astype(np.float64) @ b.T.astype(np.float64)
        for across in ((False, False), (False, True), (True, False)):
            for _ in range(4):
                assert np.abs(multiply(a, b, across=across, kernels=kernels) - wanted).max() < 1e-4


def test_rounded_matmul_is_more_exact_than_bfloat16():
    random = np.random.RandomState(0)
    a, b = (random.randn(200, 700).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    cut = [((x.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float64) for x in (a, b)]
    error = np.std(multiply(a, b, rounded=True) - exact)
    assert error < np.std(cut[0] @ cut[1].T - exact)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e8, 1e30])
def test_rounded_matmul_keeps_any_size_of_numbers(size):
    random = np.random.RandomState(0)
    a, b = random.randn(20, 40).astype(np.float32), random.randn(30, 40).astype(np.float32)
    found = multiply(a * np.float32(size), b, rounded=True)
    np.testing.assert_allclose(found / size, a @ b.T, atol=0.05)
    assert not multiply(a * 0, b, rounded=True).any()


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_a_number_stays_visible(rounded, wrong):
    a, b = np.ones((20, 40), np.float32), np.ones((30, 40), np.float32)
    a[7, 9] = wrong
    assert not np.isfinite(multiply(a, b, rounded=rounded)[7]).any()


class Weighed(nn.Cell):
    """A sum of products, each number with a weight of its own."""

    def __init__(self, product):
        super().__init__()
        self.matmul = product

    def construct(self, x, weight, bias, slope):
        return (self.matmul(x, weight, bias) * slope).sum() + (self.matmul(x, weight) * slope).sum()


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_operators_have_the_gradients_of_the_formula(mode):
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        random = np.random.RandomState(0)
        shapes = ((37, 50), (29, 50), (29,), (37, 29))
        inputs = [Tensor(random.randn(*shape).astype(np.float32)) for shape in shapes]
        by_kernel = ms.value_and_grad(Weighed(Matmul()), (0, 1, 2))(*inputs)
        plain = Matmul()
        plain.kernel_is_on = False
        by_formula = ms.value_and_grad(Weighed(plain), (0, 1, 2))(*inputs)
        np.testing.assert_allclose(by_kernel[0].asnumpy(), by_formula[0].asnumpy(), rtol=1e-4)
        for ours, theirs in zip(by_kernel[1], by_formula[1], strict=True):
            np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-4, atol=1e-4)
    finally:
        ms.set_context(mode=before)


@pytest.mark.usefixtures("pynative")
def test_gradients_are_slopes():
    random = np.random.RandomState(3)
    shapes = ((9, 20), (7, 20), (7,), (9, 7))
    assert_derivative(Weighed(Matmul()), *(Tensor(random.randn(*shape).astype(np.float32)) for shape in shapes))


def test_other_types_and_open_shapes_take_the_formula():
    x = Tensor(np.ones((3, 4), np.float16))
    weight = Tensor(np.ones((5, 4), np.float16))
    assert Matmul()(x, weight).dtype == ms.float16
    cell = Matmul()
    cell.set_inputs(Tensor(shape=[None, 4], dtype=ms.float32), Tensor(np.ones((5, 4), np.float32)))
    for rows in (2, 7):
        wide = Tensor(np.ones((rows, 4), np.float32))
        found = cell(wide, Tensor(np.ones((5, 4), np.float32)))
        np.testing.assert_array_equal(found.asnumpy(), linear(wide, Tensor(np.ones((5, 4), np.float32))).asnumpy())
