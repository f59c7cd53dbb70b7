"""Numbers that are the same on every machine, as a type of the device holds them."""

from __future__ import annotations

import zlib

import numpy as np

from mindformers_glm.conformance.check import Skipped


def numbers(name: str, *shape: int, kind: str = "float32") -> np.ndarray:
    """Normal numbers (shape) in float64, each one that `kind` has; other names give others."""
    found = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return rounded(found, kind)


def whole(name: str, *shape: int, below: int) -> np.ndarray:
    """Whole numbers from 0 to `below` - 1 in int32."""
    return np.random.RandomState(zlib.crc32(name.encode())).randint(0, below, shape).astype(np.int32)


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """The nearest numbers that `kind` has, in float64."""
    if kind != "bfloat16":
        return np.asarray(values).astype(kind).astype(np.float64)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def skip_on_cpu(kind: str, target: str) -> None:
    """Raises Skipped for a type whose matmul a CPU does not have."""
    if kind == "bfloat16" and target == "CPU":
        raise Skipped("MindSpore has no bfloat16 matmul on a CPU")
