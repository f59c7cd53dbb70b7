"""Linear layers with weights of 8 and 4 bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn

from mindformers_glm.conformance import reference
from mindformers_glm.conformance.check import Answer, check
from mindformers_glm.conformance.checks.operators import KERNELS_OFF, formula, kernel
from mindformers_glm.conformance.device import array, tensor
from mindformers_glm.conformance.inputs import numbers, whole
from mindformers_glm.ops.linear import QuantizedMatmul

_COLUMNS, _GROUP, _ROWS = 192, 32, 6  # a block of 128 and half a one


def _answer(switched: Callable[[nn.Cell], nn.Cell], bits: int, kind: str) -> Answer:
    x, bias = numbers("integer x", 3, _COLUMNS, kind=kind), numbers("integer bias", _ROWS, kind=kind)
    if bits == 8:
        packed = (whole("int8", _ROWS, _COLUMNS, below=255) - 127).astype(np.int8)
    else:
        packed = whole("int4", _ROWS, 128, below=256).astype(np.uint8)
        packed[:, 96:] = packed[:, 96:] % 16 + 128  # the half of a block that no column is in
    scale = (np.abs(numbers("scales", _ROWS, _COLUMNS // _GROUP)) / 100).astype(np.float16)
    cell = switched(QuantizedMatmul(bits=bits, columns=_COLUMNS))
    found = cell(tensor(x, kind), Tensor(packed), Tensor(scale), tensor(bias, kind))
    wanted = x @ reference.integers(packed, scale, bits=bits, columns=_COLUMNS).T + bias
    return Answer({"value": array(found)}, {"value": wanted})


@check("linear.int8", place="ops/linear.py: quantized_linear, 8 bits", needs=["linear"], kinds=("float32", "float16"))
def _int8(kind: str) -> Answer:
    return _answer(formula, 8, kind)


@check("linear.int4", place="ops/linear.py: quantized_linear, 4 bits", needs=["linear"], kinds=("float32", "float16"))
def _int4(kind: str) -> Answer:
    return _answer(formula, 4, kind)


@check("linear.int8_kernel", place="ops/kernels: GlmLinearInt8", switch_off=KERNELS_OFF, slack=2000)
def _int8_kernel(kind: str) -> Answer:
    """The kernel rounds x to 8 bits too: its own bound."""
    return _answer(kernel, 8, kind)


@check("linear.int4_kernel", place="ops/kernels: GlmLinearInt4", switch_off=KERNELS_OFF, slack=2000)
def _int4_kernel(kind: str) -> Answer:
    return _answer(kernel, 4, kind)
