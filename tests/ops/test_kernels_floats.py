"""Weights of floats in inference: products over odd shapes and every count of tokens, in every build."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mindformers_glm.ops.kernels import build, library
from mindformers_glm.ops.kernels.structures import KINDS, LinearStruct, NetworkStruct, address

here = [variant for variant in build.variants() if set(variant.features) <= library.features()]
SHAPES = ((1, 1), (5, 7), (13, 15), (12, 16), (25, 17), (31, 33), (47, 64), (29, 100))  # rows, columns
TOKENS = (1, 2, 3, 4, 5, 7, 8, 9, 11, 16, 17, 23, 31, 33, 48, 63, 64, 65, 130)


def stored(wide: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The weight as the kernels read it, and what its numbers are."""
    if kind == "BFloat16":
        halves = (wide.view(np.uint32) >> 16).astype(np.uint16)
        return halves, (halves.astype(np.uint32) << 16).view(np.float32)
    given = wide.astype(np.float16 if kind == "Float16" else np.float32)
    return given, given.astype(np.float32)


@pytest.mark.parametrize("kind", ["Float32", "Float16", "BFloat16"])
@pytest.mark.parametrize("variant", here, ids=lambda variant: variant.name)
def test_products_of_floats(variant, kind):
    """Within rounding of float32; as many tokens as the build says have the numbers that each has alone."""
    if not build.library_path(variant).exists():
        pytest.skip("the kernels are not built here")
    kernels = ctypes.CDLL(str(build.library_path(variant)))
    library.declare(kernels)
    kernels.glm_set_threads(2)
    as_alone = kernels.glm_tokens_as_alone(ctypes.byref(NetworkStruct()))
    random, space = np.random.default_rng(0), kernels.glm_new_workspace()
    for rows, columns in SHAPES:
        weight, wide = stored(random.normal(size=(rows, columns)).astype(np.float32), kind)
        given = LinearStruct(rows=rows, columns=columns, kind=KINDS[kind], weight=address(weight))
        x = random.normal(size=(max(TOKENS), columns)).astype(np.float32)
        exact, alone = x.astype(np.float64) @ wide.T.astype(np.float64), np.empty((len(x), rows), np.float32)
        bound = 2.0**-23 * np.sqrt(columns) * (np.abs(x) @ np.abs(wide).T)
        for token in range(len(x)):
            kernels.glm_linear(address(x[token]), 1, ctypes.byref(given), address(alone[token]), space)
        for tokens in TOKENS:
            found = np.full((tokens, rows), np.nan, np.float32)
            kernels.glm_linear(address(x), tokens, ctypes.byref(given), address(found), space)
            assert (np.abs(found - exact[:tokens]) <= bound[:tokens]).all(), (rows, columns, tokens)
            if tokens <= as_alone:
                np.testing.assert_array_equal(found, alone[:tokens], err_msg=f"{rows} {columns} {tokens}")
    kernels.glm_free_workspace(space)
    assert as_alone >= 8
