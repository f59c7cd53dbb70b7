"""Integers in the order of the kernels: NumPy's is that of the compiled library, and back."""

import ctypes

import numpy as np
import pytest

from mindformers_glm.ops.kernels import library
from mindformers_glm.ops.kernels.structures import KINDS, LAYOUTS, LinearStruct, address
from mindformers_glm.ops.panels import to_panels, to_rows
from mindformers_glm.ops.quantized import quantize

SHAPES = [(16, 32), (48, 128), (37, 96), (5, 160), (131, 320)]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_panels_are_those_of_the_kernels(shape, bits):
    functions = library.library()
    if functions is None:
        pytest.skip("no kernels")
    rows = quantize(np.random.default_rng(0).standard_normal(shape).astype(np.float32), bits=bits, group_size=32)
    given = LinearStruct(rows=shape[0], columns=shape[1], group=32, layout=LAYOUTS["rows"])
    given.kind = KINDS["Int8" if bits == 8 else "UInt8"]
    given.weight, given.scale = map(address, rows)
    weight, scale = (np.zeros_like(part) for part in rows)
    functions.glm_pack(ctypes.byref(given), address(weight), address(scale))
    assert to_panels(rows.weight).tobytes() == weight.tobytes()
    assert to_panels(rows.scale).tobytes() == scale.tobytes()


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.float16])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 64])
def test_rows_come_back(rows, kind):
    given = np.random.default_rng(rows).integers(-128 if kind == np.int8 else 0, 127, (rows, 64)).astype(kind)
    assert to_rows(to_panels(given)).tobytes() == given.tobytes()
    assert rows == 1 or to_panels(given).tobytes() != given.tobytes()
