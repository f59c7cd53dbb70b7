"""Number types of GGML: rows of blocks, each with its scales, as the floats that they stand for, and back.

One row of the table for each type: GGUF and chatglm.cpp files use the same numbers. A row of a matrix is a whole number
of blocks, so that rows can be read and computed alone. Arithmetic is float32 in the order of ggml's own code, and so
equal to it bit for bit. Sources: ggml-quants.c of llama.cpp, described in gguf's documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import convert_bits

_SUPER = 256  # columns of a block of the K types
_FOUR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # the steps of IQ4_NL


class GgmlType(NamedTuple):
    """A type: `columns` numbers in `size` bytes. `plain` is our name of a float type that needs no arithmetic."""

    name: str
    columns: int = 1
    size: int = 0
    plain: str = ""
    floats: Callable[[np.ndarray], np.ndarray] | None = None  # blocks (n, size) uint8 -> (n, columns) float32
    blocks: Callable[[np.ndarray], np.ndarray] | None = None  # the inverse, rounded

    @property
    def is_scaled(self) -> bool:
        """True where a number is an integer times the float16 with which its block begins, and nothing more."""
        return self.name in ("Q8_0", "Q4_0")


def dequantised(rows: np.ndarray, kind: GgmlType) -> np.ndarray:
    """Rows of bytes (R, B * size) as float32 (R, B * columns)."""
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale is found as a number that is not finite
        return _known(kind.floats, kind)(rows.reshape(-1, kind.size)).reshape(len(rows), -1)


def quantised(values: np.ndarray, kind: GgmlType) -> np.ndarray:
    """Rows of float32 (R, K) as bytes (R, K / columns * size)."""
    return _known(kind.blocks, kind)(values.reshape(-1, kind.columns)).reshape(len(values), -1)


def _known(change: Callable[[np.ndarray], np.ndarray] | None, kind: GgmlType) -> Callable[[np.ndarray], np.ndarray]:
    if change is None:
        raise ValueError(f"{kind.name} is a float type, or is read only")
    return change


def _half(blocks: np.ndarray, place: int) -> np.ndarray:
    """The float16 at byte `place` of each block, as float32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, place : place + 2]).view("<f2").astype(np.float32)


def _shifted(bytes_: np.ndarray, width: int, bits: int) -> np.ndarray:
    """Runs of `width` bytes, each as 8 / bits runs of numbers of `bits` bits, the lowest first: (n, runs, width)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    runs = bytes_.reshape(len(bytes_), -1, 1, width) >> shifts
    return (runs & np.uint8((1 << bits) - 1)).reshape(len(bytes_), -1, width)


def _four_bits(blocks: np.ndarray, place: int) -> np.ndarray:
    return _shifted(blocks[:, place : place + 16], 16, 4).reshape(-1, 32)


def _fifth_bits(blocks: np.ndarray, place: int) -> np.ndarray:
    return np.unpackbits(blocks[:, place : place + 4], axis=1, bitorder="little") << np.uint8(4)


def _f32(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f4")


def _f16(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: np.ndarray) -> np.ndarray:
    return convert_bits(blocks.view("<u2"), "bfloat16", "float32")


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * (_four_bits(blocks, 2).astype(np.int8) - np.int8(8)).astype(np.float32)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * _four_bits(blocks, 4).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    five = _four_bits(blocks, 6) | _fifth_bits(blocks, 2)
    return _half(blocks, 0) * (five.astype(np.int8) - np.int8(16)).astype(np.float32)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    five = _four_bits(blocks, 8) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * five.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _half(blocks, 0)


def _iq4_nl(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * np.array(_FOUR, np.float32)[_four_bits(blocks, 2)]


def _q2_k(blocks: np.ndarray) -> np.ndarray:
    packed = blocks[:, :16]
    scale = _half(blocks, 80) * (packed & np.uint8(15)).astype(np.float32)
    least = _half(blocks, 82) * (packed >> np.uint8(4)).astype(np.float32)
    two = _shifted(blocks[:, 16:80], 32, 2).reshape(-1, 16, 16).astype(np.float32)
    return (scale[:, :, None] * two - least[:, :, None]).reshape(-1, _SUPER)


def _q3_k(blocks: np.ndarray) -> np.ndarray:
    low = _shifted(blocks[:, 96:104], 8, 4).reshape(-1, 16)
    high = _shifted(blocks[:, 104:108], 4, 2).reshape(-1, 16)
    scale = _half(blocks, 108) * ((low | (high << np.uint8(4))).astype(np.int8) - np.int8(32)).astype(np.float32)
    third = _shifted(blocks[:, :32], 32, 1).reshape(-1, 16, 16) ^ np.uint8(1)
    two = _shifted(blocks[:, 32:96], 32, 2).reshape(-1, 16, 16)
    three = two.astype(np.int8) - (third << np.uint8(2)).astype(np.int8)
    return (scale[:, :, None] * three.astype(np.float32)).reshape(-1, _SUPER)


def _scales_and_minima(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight scales and minima, of 6 bits each, in the 12 bytes at place 4; times those of the block."""
    first, second, third = (blocks[:, start : start + 4] for start in (4, 8, 12))
    top = np.uint8(0x30)
    scale = np.concatenate([first & np.uint8(63), (third & np.uint8(15)) | ((first >> np.uint8(2)) & top)], axis=1)
    least = np.concatenate([second & np.uint8(63), (third >> np.uint8(4)) | ((second >> np.uint8(2)) & top)], axis=1)
    return _half(blocks, 0) * scale.astype(np.float32), _half(blocks, 2) * least.astype(np.float32)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    scale, least = _scales_and_minima(blocks)
    four = _shifted(blocks[:, 16:], 32, 4).astype(np.float32)
    return (scale[:, :, None] * four - least[:, :, None]).reshape(-1, _SUPER)


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    scale, least = _scales_and_minima(blocks)
    five = _shifted(blocks[:, 48:], 32, 4) | (_shifted(blocks[:, 16:48], 32, 1) << np.uint8(4))
    return (scale[:, :, None] * five.astype(np.float32) - least[:, :, None]).reshape(-1, _SUPER)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    low = _shifted(blocks[:, :128], 64, 4).reshape(-1, 8, 32)
    six = (low | (_shifted(blocks[:, 128:192], 32, 2) << np.uint8(4))).astype(np.int8) - np.int8(32)
    return (scale[:, :, None] * six.reshape(-1, 16, 16).astype(np.float32)).reshape(-1, _SUPER)


def _inverse(scale: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _to_q8_0(values: np.ndarray) -> np.ndarray:
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    exact = values * _inverse(scale)
    whole = np.trunc(exact + np.copysign(np.float32(0.5), exact))  # halves away from zero, as roundf
    return np.concatenate([scale.astype("<f2").view(np.uint8), whole.astype(np.int8).view(np.uint8)], axis=1)


def _to_q4_0(values: np.ndarray) -> np.ndarray:
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    scale = largest / np.float32(-8)
    four = np.clip(np.trunc(values * _inverse(scale) + np.float32(8.5)), 0, 15).astype(np.uint8)
    packed = four[:, :16] | (four[:, 16:] << np.uint8(4))
    return np.concatenate([scale.astype("<f2").view(np.uint8), packed], axis=1)


GGML_TYPES = {
    0: GgmlType("F32", 1, 4, plain="float32", floats=_f32),
    1: GgmlType("F16", 1, 2, plain="float16", floats=_f16),
    2: GgmlType("Q4_0", 32, 18, "", _q4_0, _to_q4_0),
    3: GgmlType("Q4_1", 32, 20, "", _q4_1),
    6: GgmlType("Q5_0", 32, 22, "", _q5_0),
    7: GgmlType("Q5_1", 32, 24, "", _q5_1),
    8: GgmlType("Q8_0", 32, 34, "", _q8_0, _to_q8_0),
    10: GgmlType("Q2_K", _SUPER, 84, "", _q2_k),
    11: GgmlType("Q3_K", _SUPER, 110, "", _q3_k),
    12: GgmlType("Q4_K", _SUPER, 144, "", _q4_k),
    13: GgmlType("Q5_K", _SUPER, 176, "", _q5_k),
    14: GgmlType("Q6_K", _SUPER, 210, "", _q6_k),
    20: GgmlType("IQ4_NL", 32, 18, "", _iq4_nl),
    30: GgmlType("BF16", 1, 2, plain="bfloat16", floats=_bf16),
}
BY_GGML_NAME = {kind.name.lower(): (number, kind) for number, kind in GGML_TYPES.items()}
_OTHER_NUMBERS = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S"}
_OTHER_NUMBERS |= {22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M"}
_OTHER_NUMBERS |= {34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}


def type_name(number: int) -> str:
    """The name of a type that is read here or not, for messages."""
    return GGML_TYPES[number].name if number in GGML_TYPES else _OTHER_NUMBERS.get(number, f"number {number}")
