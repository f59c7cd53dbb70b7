"""W8A8 products: every build finds the very numbers of the formula, at the ends of the ranges too."""

from __future__ import annotations

import ctypes

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers_glm.models.w8a8 import W8A8Linear
from mindformers_glm.ops.kernels import build, library
from mindformers_glm.ops.kernels.operators import use_formulas
from mindformers_glm.ops.kernels.structures import LAYOUTS, W8A8, LinearStruct, address
from mindformers_glm.ops.w8a8 import Layer, output, per_token, quantized

here = [variant for variant in build.variants() if set(variant.features) <= library.features()]
SHAPES = ((1, 4), (5, 32), (16, 20), (31, 260), (33, 64), (70, 1028), (129, 416))


def layer_of(random, rows: int, columns: int, *, token: bool) -> Layer:
    """A layer whose weight has all of -128 to 127, as files of others may."""
    weight = random.normal(size=(rows, columns)).astype(np.float32)
    bias = random.normal(size=rows).astype(np.float32)
    layer = per_token(weight, bias) if token else quantized(weight, bias, -2.5, 3.0)
    whole = random.integers(-128, 128, (rows, columns)).astype(np.int8)
    whole[0], whole[-1] = -128, 127
    return layer._replace(quant_weight=whole)


def struct(layer: Layer, weight: np.ndarray, layout: str) -> LinearStruct:
    rows, columns = layer.quant_weight.shape
    made = LinearStruct(rows=rows, columns=columns, kind=W8A8, group=columns, layout=LAYOUTS[layout])
    made.weight, made.row_scale, made.row_bias = (address(a) for a in (weight, layer.deq_scale, layer.quant_bias))
    made.input_scale, made.input_offset = float(layer.input_scale[0]), float(layer.input_offset[0])
    return made


def inputs(random, tokens: int, columns: int) -> np.ndarray:
    x = (random.normal(size=(tokens, columns)) * 2).astype(np.float32)
    x[0], x[-1] = 1000, -1000  # all 127, all -128
    return x if tokens > 2 else x[::-1].copy()


@pytest.mark.parametrize("variant", here, ids=lambda variant: variant.name)
def test_products(variant):
    if not build.library_path(variant).exists():
        pytest.skip("the kernels are not built here")
    kernels = ctypes.CDLL(str(build.library_path(variant)))
    library.declare(kernels)
    kernels.glm_set_threads(2)
    random, space = np.random.default_rng(0), kernels.glm_new_workspace()
    for rows, columns in SHAPES:
        for token in (False, True):
            layer = layer_of(random, rows, columns, token=token)
            weight = layer.quant_weight.copy()
            kernels.glm_pack(ctypes.byref(struct(layer, weight, "rows")), address(weight), None)
            both = struct(layer, weight, "panels"), struct(layer, layer.quant_weight, "rows")
            for tokens in (1, 2, 3, 12, 13, 30):
                x = inputs(random, tokens, columns)
                for given in both:
                    found = np.full((tokens, rows), np.nan, np.float32)
                    kernels.glm_linear(address(x), tokens, ctypes.byref(given), address(found), space)
                    np.testing.assert_array_equal(found, output(x, layer._replace(fp_bias=np.zeros(rows, np.float32))))
    x = np.full((2, columns), 1, np.float32)
    x[1, 3] = np.nan
    kernels.glm_linear(address(x), 2, ctypes.byref(both[0]), address(found := np.zeros((2, rows), np.float32)), space)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
    kernels.glm_free_workspace(space)


@pytest.mark.parametrize("token", [False, True])
def test_the_cell_is_exact_by_kernel_and_by_formula(token):
    random = np.random.default_rng(1)
    layer = layer_of(random, 24, 2052, token=token)
    x = inputs(random, 5, 2052)
    cells = [W8A8Linear(layer, dtype=ms.float32).set_train(False) for _ in range(2)]
    use_formulas(cells[1])
    for cell in cells:
        np.testing.assert_array_equal(cell(Tensor(x)).asnumpy(), output(x, layer))
