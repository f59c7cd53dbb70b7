"""Kernels for aarch64: compiled across, run under an emulator of the CPUs that each build is for, against formulas."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mindformers_glm.ops.kernels import build
from mindformers_glm.ops.kernels.structures import KINDS, W8A8
from mindformers_glm.ops.quantized import dequantize, quantize
from mindformers_glm.ops.w8a8 import output, per_token, quantized

CPUS = {"arm_i8mm": "max", "arm_dotprod": "neoverse-n1", "portable": "cortex-a57"}  # as qemu names them
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
SHAPES = ((1, 32, 32), (5, 48, 16), (16, 64, 32), (31, 160, 32), (33, 144, 48), (70, 384, 128))
TOKENS = (1, 2, 3, 4, 5, 9)
FLOATS = {"Float32": (np.float32, 1e-5), "Float16": (np.float16, 1e-5), "BFloat16": (None, 1e-5)}


class Case(NamedTuple):
    """A matmul as drive_matmuls.cpp reads it, and what it should give; `bound`: of the largest difference."""

    content: bytes
    expected: np.ndarray
    bound: float
    is_alone_equal: bool


def case(kind, weight, x, expected, bound, *, scale=None, group=0, columns, layer=None) -> Case:
    rows, scale = len(expected.T), np.zeros(0, np.uint16) if scale is None else scale
    inputs = (0.0, 0.0) if layer is None else (float(layer.input_scale[0]), float(layer.input_offset[0]))
    head = (kind, rows, columns, group, len(x), weight.nbytes, scale.size, int(layer is not None), *inputs)
    more = [] if layer is None else [layer.deq_scale, layer.quant_bias]
    content = struct.pack("8q2f", *head) + b"".join(array.tobytes() for array in (weight, scale, *more, x))
    return Case(content, expected, bound, kind >= KINDS["Int8"])


def cases() -> list[Case]:
    random, found = np.random.default_rng(0), []
    for rows, columns, group in SHAPES:
        for tokens in TOKENS:
            x = random.normal(size=(tokens, columns)).astype(np.float32)
            wide = random.normal(size=(rows, columns)).astype(np.float32)
            for name, (dtype, bound) in FLOATS.items():
                bits = (wide.view(np.uint32) >> 16).astype(np.uint16) if dtype is None else wide.astype(dtype)
                held = (bits.astype(np.uint32) << 16).view(np.float32) if dtype is None else bits.astype(np.float32)
                expected = x.astype(np.float64) @ held.T.astype(np.float64)
                found.append(case(KINDS[name], bits, x, expected, bound * columns, columns=columns))
            for bits, name in ((8, "Int8"), (4, "UInt8")):
                given = quantize(wide, bits=bits, group_size=group)
                expected = rounded(x, group) @ dequantize(given, bits=bits, columns=columns).T.astype(np.float64)
                options = {"scale": given.scale.view(np.uint16), "group": group, "columns": columns}
                found.append(case(KINDS[name], given.weight, x, expected, 0.02 * np.sqrt(columns), **options))
            for layer in (per_token(wide, None), quantized(wide, None, -2.5, 3.0)):
                x[0] = 1000  # all 127
                weight = random.integers(-128, 128, (rows, columns)).astype(np.int8)
                layer = layer._replace(quant_weight=weight)
                options = {"group": columns, "columns": columns, "layer": layer}
                found.append(case(W8A8, weight, x, output(x, layer), 0, **options))
    return found


def rounded(x: np.ndarray, group: int) -> np.ndarray:
    """Activations as the kernels see them: 8 bits and a scale for every 16 or 32."""
    parts = x.astype(np.float64).reshape(len(x), -1, 32 if group % 32 == 0 else 16)
    scale = np.abs(parts).max(-1, keepdims=True) / 127
    return (np.rint(parts / scale) * scale).reshape(x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("variant", build.variants("aarch64"), ids=lambda variant: variant.name)
def test_matmuls(variant, tmp_path, monkeypatch):
    if shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None:
        pytest.skip("Debian's g++-aarch64-linux-gnu and qemu-user are not installed")
    monkeypatch.setenv("CXX", COMPILER)
    (library,) = build.build(tmp_path, chosen=(variant,))
    program = tmp_path / "drive"
    driver = Path(__file__).with_name("drive_matmuls.cpp")
    command = [COMPILER, "-std=c++20", "-Wno-psabi", f"-I{build.SOURCE}", driver, library, "-o", program]
    subprocess.run(list(map(str, command)), check=True)
    given = cases()
    (tmp_path / "cases").write_bytes(b"".join(one.content for one in given))
    command = [EMULATOR, "-cpu", CPUS[variant.name], "-L", "/usr/aarch64-linux-gnu", program, "cases", "results"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path, env=environment, timeout=600)
    left = np.fromfile(tmp_path / "results", np.float32)
    for one in given:
        size = one.expected.size
        (rows, panels, alone), left = left[: 3 * size].reshape(3, *one.expected.shape), left[3 * size :]
        assert np.abs(rows - one.expected).max() <= one.bound
        np.testing.assert_array_equal(rows, panels)
        if one.is_alone_equal:
            np.testing.assert_array_equal(panels, alone)
    assert len(left) == 0
