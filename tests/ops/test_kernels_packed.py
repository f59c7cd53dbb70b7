"""Packed integer weights: products against the dequantised weight over odd shapes, in every build."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mindformers_glm.ops.kernels import build, library
from mindformers_glm.ops.kernels.structures import KINDS, LAYOUTS, LinearStruct, address
from mindformers_glm.ops.quantized import dequantize, packed_columns, quantize

here = [variant for variant in build.variants() if set(variant.features) <= library.features()]
SHAPES = (
    *((1, 16, 16), (5, 32, 32), (16, 48, 16), (20, 144, 48), (31, 160, 32), (33, 64, 64), (70, 384, 128)),
    (129, 416, 32),
)


def loaded(path) -> ctypes.CDLL:
    kernels = ctypes.CDLL(str(path))
    library.declare(kernels)
    kernels.glm_set_threads(2)
    return kernels


def struct(weight, scale, *, columns: int, bits: int, group: int, layout: str) -> LinearStruct:
    made = LinearStruct(rows=len(weight), columns=columns, kind=KINDS["Int8" if bits == 8 else "UInt8"], group=group)
    made.weight, made.scale, made.layout = address(weight), address(scale), LAYOUTS[layout]
    return made


def rounded(x: np.ndarray, group: int) -> np.ndarray:
    """Activations as the kernels see them: 8 bits and a scale for every 16 or 32."""
    span = 32 if group % 32 == 0 else 16
    parts = x.reshape(len(x), -1, span)
    scale = np.abs(parts).max(-1, keepdims=True) / 127
    return (np.rint(np.divide(parts, scale, out=np.zeros_like(parts), where=scale > 0)) * scale).reshape(x.shape)


def check(kernels: ctypes.CDLL) -> None:
    random, space = np.random.default_rng(0), kernels.glm_new_workspace()
    for rows, columns, group in SHAPES:
        for bits in (8, 4):
            given = quantize(random.normal(size=(rows, columns)).astype(np.float32), bits=bits, group_size=group)
            assert given.weight.shape[1] == packed_columns(columns, bits)
            options = {"columns": columns, "bits": bits, "group": group}
            plain = struct(given.weight, given.scale, layout="rows", **options)
            weight, scale = given.weight.copy(), given.scale.copy()
            kernels.glm_pack(
                ctypes.byref(struct(weight, scale, layout="rows", **options)), address(weight), address(scale)
            )
            packed = struct(weight, scale, layout="panels", **options)
            wide = dequantize(given, bits=bits, columns=columns).astype(np.float64)
            for tokens in (1, 2, 3, 5, 7, 12, 13, 30):
                x = random.normal(size=(tokens, columns)).astype(np.float32)
                x[0, : columns // 2] = 0
                found = [np.full((tokens, rows), np.nan, np.float32) for _ in range(3)]
                kernels.glm_linear(address(x), tokens, ctypes.byref(packed), address(found[0]), space)
                kernels.glm_linear(address(x), tokens, ctypes.byref(plain), address(found[1]), space)
                for token in range(tokens):
                    kernels.glm_linear(address(x[token]), 1, ctypes.byref(packed), address(found[2][token]), space)
                expected = rounded(x.astype(np.float64), group) @ wide.T
                assert np.abs(found[0] - expected).max() < 0.02 * np.sqrt(columns) * np.abs(wide).max() / 10 + 1e-5
                assert np.abs(found[0] - expected).mean() < 1e-4 * np.sqrt(columns)  # rounding halfway cases apart
                np.testing.assert_array_equal(found[0], found[1])  # in both layouts
                np.testing.assert_array_equal(found[0], found[2])  # alone or beside others
    kernels.glm_free_workspace(space)


@pytest.mark.parametrize("variant", here, ids=lambda variant: variant.name)
def test_products(variant):
    if not build.library_path(variant).exists():
        pytest.skip("the kernels are not built here")
    check(loaded(build.library_path(variant)))


@pytest.mark.slow
def test_products_of_a_cpu_with_avx_vnni_alone(tmp_path):
    """Its instruction exists in AVX-512 too, by another name."""
    needed = {"avx512f", "avx512vl", "avx512_vnni"}
    if build.compiler() is None or not needed <= library.features():
        pytest.skip("there is no compiler, or this CPU has no such instruction")
    flags = ("-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512vl", "-mavx512vnni", "-DGLM_AVX_VNNI_ONLY")
    (path,) = build.build(tmp_path, chosen=(build.Variant("avx_vnni", (), flags),))
    check(loaded(path))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_a_number_stays_visible(wrong):
    kernels = library.library()
    if kernels is None:
        pytest.skip("the kernels are not built here")
    given = quantize(np.ones((20, 64), np.float32), bits=8, group_size=32)
    weight = struct(given.weight, given.scale, columns=64, bits=8, group=32, layout="rows")
    x, y = np.ones((3, 64), np.float32), np.zeros((3, 20), np.float32)
    x[1, 5] = wrong
    space = kernels.glm_new_workspace()
    kernels.glm_linear(address(x), 3, ctypes.byref(weight), address(y), space)
    kernels.glm_free_workspace(space)
    assert not np.isfinite(y[1]).any() and np.isfinite(y[[0, 2]]).all()
