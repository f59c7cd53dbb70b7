"""The integer format, against its definition."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

from mindformers_glm.ops.kernels.library import library
from mindformers_glm.ops.linear import QuantizedMatmul, quantized_linear
from mindformers_glm.ops.quantized import dequantize, packed_columns, quantize, relative_error

sizes = st.tuples(st.sampled_from([4, 8]), st.integers(1, 9), st.integers(1, 9), st.sampled_from([16, 32, 64, 128]))


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32) * 0.02


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_nothing_is_farther_than_half_a_step(case):
    bits, rows, groups, size = case
    exact = weight(rows, groups * size)
    found = quantize(exact, bits=bits, group_size=size)
    assert found.weight.shape == (rows, packed_columns(groups * size, bits)) and found.scale.shape == (rows, groups)
    error = np.abs(dequantize(found, bits=bits, columns=groups * size) - exact).reshape(rows, groups, size)
    step = np.abs(found.scale.astype(np.float32))[:, :, None]
    clipped = 0.5 if bits == 8 else 3  # with 4 bits the largest number may be cut: 8 / 0.8 = 10 steps become 7
    assert (error <= step * (clipped + 0.05) + 1e-7).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_bytes_are_those_of_the_definition(bits):
    exact = weight(3, 160)
    found = quantize(exact, bits=bits, group_size=32)
    whole = np.empty((3, 160))
    for row in range(3):
        for column in range(160):
            if bits == 8:
                whole[row, column] = found.weight[row, column]
            else:
                byte = int(found.weight[row, column // 128 * 64 + column % 64])
                whole[row, column] = (byte & 15 if column % 128 < 64 else byte >> 4) - 8
    expected = whole * np.repeat(found.scale.astype(np.float64), 32, axis=1)
    np.testing.assert_allclose(dequantize(found, bits=bits, columns=160), expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [32, 96, 128, 416])
def test_the_product_is_that_of_the_dequantised_weight(bits, columns):
    exact, x = weight(7, columns), weight(5, columns, 1)
    bias = weight(1, 7, 2)[0]
    found = quantize(exact, bits=bits, group_size=32)
    expected = x @ dequantize(found, bits=bits, columns=columns).T + bias
    given_ = (Tensor(x), Tensor(found.weight), Tensor(found.scale), Tensor(bias))
    np.testing.assert_allclose(quantized_linear(*given_, bits=bits, columns=columns).asnumpy(), expected, atol=1e-6)


def test_groups_of_zeros_and_large_numbers():
    exact = np.zeros((2, 64), np.float32)
    exact[1, 32:] = 1e4
    for bits in (4, 8):
        found = quantize(exact, bits=bits, group_size=32)
        np.testing.assert_allclose(dequantize(found, bits=bits, columns=64), exact, rtol=1e-3)


def test_the_error_is_the_relative_distance():
    exact = weight(300, 4096)
    found = quantize(exact, bits=4, group_size=32)
    distance = np.linalg.norm(dequantize(found, bits=4, columns=4096) - exact) / np.linalg.norm(exact)
    assert relative_error(found, exact, bits=4) == pytest.approx(distance, rel=1e-4)
    plain = np.abs(exact.reshape(300, -1, 32)).max(-1) / 7  # rounding to the nearest of 15 steps
    rounded = np.rint(exact.reshape(300, -1, 32) / plain[..., None]) * plain[..., None]
    assert distance < np.linalg.norm(rounded.reshape(exact.shape) - exact) / np.linalg.norm(exact)


@pytest.mark.skipif(library() is None, reason="the kernels are not built")
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("tokens", "rows", "columns", "group"), [(1, 5, 32, 32), (3, 33, 96, 16), (7, 40, 160, 32), (19, 70, 384, 128)]
)
@pytest.mark.slow_where(lambda mode, tokens: mode == ms.GRAPH_MODE and tokens != 3)
def test_the_operator_is_the_formula(mode, bits, tokens, rows, columns, group):
    """Within what rounding activations to 8 bits does."""
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        found = quantize(weight(rows, columns), bits=bits, group_size=group)
        random = np.random.default_rng(1)
        x, bias = (Tensor(random.normal(size=size).astype(np.float32)) for size in ((tokens, columns), (rows,)))
        product = QuantizedMatmul(bits=bits, columns=columns)
        given = x, Tensor(found.weight), Tensor(found.scale), bias
        by_kernel = product(*given).asnumpy()
        by_formula = quantized_linear(*given, bits=bits, columns=columns).asnumpy()
        assert np.abs(by_kernel - by_formula).max() < 0.03 * max(1, np.abs(by_formula).max())
        assert product(*given[:3]).shape == (tokens, rows)
    finally:
        ms.set_context(mode=before)
