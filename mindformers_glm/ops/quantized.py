"""Weights as integers with one float16 scale for each group of columns. Shapes: N rows, D columns, g group, P packed.

8 bits: int8 (N, D), the weight is q * scale. 4 bits: uint8 (N, P), P = 64 for every 128 columns or part of them: byte j
of a block holds column j in its low half and column j + 64 in its high half, and the weight is (half - 8) * scale.
NumPy alone; the matmul with such a weight is in linear.py and, for CPUs, in kernels/source/linear_int.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mindformers_glm.threads import side_by_side

SCALE = "_scale"  # after the name of a weight: the name of its scales
BLOCK, ZERO = 128, 8
_CHUNK_NUMBERS = 1 << 19  # so many fit into the cache of a CPU together with intermediate results
_SHRINKS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)  # tried factors of a scale: a smaller one clips the largest number


class Quantized(NamedTuple):
    """A weight as integers, and the scales (N, D / g) float16."""

    weight: np.ndarray
    scale: np.ndarray


def packed_columns(columns: int, bits: int) -> int:
    """Bytes of a row: D, or P for 4 bits."""
    return columns if bits == 8 else -(-columns // BLOCK) * BLOCK // 2


def layer_bits(bits: int, *, is_head: bool, head_bits: int = 8) -> int:
    """Bits of one layer; the output layer, on which every token depends, has at least `head_bits`. 0: floats."""
    if not is_head:
        return bits
    return max(bits, head_bits) if bits and head_bits else 0


def quantize(weight: np.ndarray, *, bits: int, group_size: int) -> Quantized:
    """The nearest integer weight to a float weight (N, D); D is a multiple of `group_size`.

    With 8 bits the largest number of a group becomes 127. With 4 bits it becomes -8, or less where clipping it makes
    the group's squared error smaller; the scale then is the best one for the integers found.
    """
    rows, columns = weight.shape
    packed = np.empty((rows, packed_columns(columns, bits)), np.int8 if bits == 8 else np.uint8)
    scale = np.empty((rows, columns // group_size), np.float16)
    step = max(1, _CHUNK_NUMBERS // columns)

    def some_rows(begin: int) -> None:
        part = np.asarray(weight[begin : begin + step], np.float32)
        groups = part.reshape(len(part), -1, group_size)
        whole, scale[begin : begin + step] = (_eight if bits == 8 else _four)(groups)
        whole = whole.reshape(part.shape)
        packed[begin : begin + step] = whole if bits == 8 else _pack(whole)

    list(side_by_side(some_rows, range(0, rows, step)))
    return Quantized(packed, scale)


def official_scale(halves: np.ndarray, bits: int) -> np.ndarray:
    """Scales (N) float16 of the official integer weights, for a float16 weight (N, D): max|row| / 127, or / 7."""
    return np.abs(halves).max(axis=1) / np.float16(2 ** (bits - 1) - 1)


def official_integers(halves: np.ndarray, bits: int) -> np.ndarray:
    """int8 (N, D), rounded in float16 as the official code does; a row of zeros, NaN there, is 0 here."""
    most, scale = 2 ** (bits - 1) - 1, official_scale(halves, bits)[:, None]
    whole = np.rint(halves / np.where(scale == 0, np.float16(1), scale))
    return np.clip(whole, -most, most).astype(np.int8)


def gptq_scale(weight: np.ndarray, group: int) -> np.ndarray:
    """Scales (N, G) float16 of symmetric GPTQ: 2 max / 15, and 2 / 15 for a group of zeros."""
    largest = np.abs(weight.reshape(len(weight), -1, group)).max(axis=2)
    return (np.where(largest == 0, np.float32(1), largest) * np.float32(2 / 15)).astype(np.float16)


def gptq_integers(weight: np.ndarray, scale: np.ndarray, group: int) -> np.ndarray:
    """int8 (N, D) from -8 to 7: the integers nearest to a float weight (N, D) divided by scales (N, G)."""
    wide = scale.astype(np.float32)
    wide[wide == 0] = 1  # a scale too small for float16
    whole = np.rint(weight.reshape(len(weight), -1, group) / wide[:, :, None])
    return np.clip(whole, -ZERO, ZERO - 1).astype(np.int8).reshape(weight.shape)


def packed(whole: np.ndarray, bits: int) -> np.ndarray:
    """Integers int8 (N, D) in the form of a weight: as they are, or two in a byte."""
    return whole if bits == 8 else _pack(whole)


def least_and_most(bits: int) -> tuple[int, int]:
    """The integers that a weight may hold."""
    return (-127, 127) if bits == 8 else (-ZERO, ZERO - 1)


def exactly(weight: np.ndarray, scales: np.ndarray, *, bits: int, group_size: int) -> Quantized | None:
    """The integers that, times `scales` (N, groups) float16, are exactly the float weight (N, D), or None."""
    rows, columns = weight.shape
    groups = scales.shape[1]
    if columns % groups or (columns // groups) % group_size:
        return None
    least, most = least_and_most(bits)
    packed = np.empty((rows, packed_columns(columns, bits)), np.int8 if bits == 8 else np.uint8)
    step = max(1, _CHUNK_NUMBERS // columns)
    for begin in range(0, rows, step):
        part = np.asarray(weight[begin : begin + step], np.float32).reshape(-1, groups, columns // groups)
        wide = scales[begin : begin + step].astype(np.float32)
        whole = np.rint(part * _inverse(wide))
        if (whole < least).any() or (whole > most).any() or not np.array_equal(whole * wide[:, :, None], part):
            return None
        whole = whole.astype(np.int8).reshape(len(part), columns)
        packed[begin : begin + step] = whole if bits == 8 else _pack(whole)
    return Quantized(packed, np.repeat(scales, columns // groups // group_size, axis=1))


def dequantize(quantized: Quantized, *, bits: int, columns: int) -> np.ndarray:
    """The float32 weight (N, D) of integers."""
    whole = quantized.weight if bits == 8 else _unpack(quantized.weight)[:, :columns]
    groups = whole.astype(np.float32).reshape(*quantized.scale.shape, -1)
    return (groups * quantized.scale[:, :, None].astype(np.float32)).reshape(-1, columns)


def squared_error(quantized: Quantized, weight: np.ndarray, *, bits: int) -> tuple[float, float]:
    """|quantised W - W|^2 and |W|^2 in the Frobenius norm, for a float weight (N, D)."""
    rows, columns = weight.shape
    step, lost, whole = max(1, _CHUNK_NUMBERS // columns), 0.0, 0.0
    for begin in range(0, rows, step):
        part = Quantized(*(array[begin : begin + step] for array in quantized))
        wide = np.asarray(weight[begin : begin + step], np.float32)
        lost += float(np.square(dequantize(part, bits=bits, columns=columns) - wide).sum())
        whole += float(np.square(wide).sum())
    return lost, whole


def relative_error(quantized: Quantized, weight: np.ndarray, *, bits: int) -> float:
    """|quantised W - W| / |W| in the Frobenius norm, for a float weight (N, D)."""
    lost, whole = squared_error(quantized, weight, bits=bits)
    return (lost / whole) ** 0.5 if whole else 0.0


def _eight(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = _storable(np.abs(groups).max(-1) / 127)
    return np.clip(np.rint(groups * _inverse(scale)), -127, 127).astype(np.int8), scale


def _four(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.abs(groups).argmax(-1)[..., None]
    largest = np.take_along_axis(groups, place, -1)[..., 0] / -ZERO
    best_error = np.full(largest.shape, np.inf, np.float32)
    best, best_scale = np.zeros(groups.shape, np.int8), np.zeros(largest.shape, np.float16)
    for shrink in _SHRINKS:
        whole = np.clip(np.rint(groups * _inverse(largest * np.float32(shrink))), -ZERO, ZERO - 1)
        size = np.maximum((whole * whole).sum(-1), 1)
        scale = _storable((whole * groups).sum(-1) / size)
        error = np.square(whole * scale[..., None].astype(np.float32) - groups).sum(-1)
        better = error < best_error
        best[better], best_scale[better] = whole[better].astype(np.int8), scale[better]
        best_error = np.minimum(error, best_error)
    return best, best_scale


def _storable(scale: np.ndarray) -> np.ndarray:
    return np.clip(scale, -65504, 65504).astype(np.float16)


def _inverse(scale: np.ndarray) -> np.ndarray:
    wide = scale.astype(np.float32)
    return np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)[..., None]


def _pack(whole: np.ndarray) -> np.ndarray:
    rows, columns = whole.shape
    padded = whole.view(np.uint8) + np.uint8(ZERO)
    if columns % BLOCK:
        padded = np.pad(padded, ((0, 0), (0, -columns % BLOCK)), constant_values=ZERO)
    eights = np.ascontiguousarray(padded).view(np.uint64).reshape(rows, -1, 2, BLOCK // 16)  # numbers side by side
    return (eights[:, :, 0] | eights[:, :, 1] << np.uint64(4)).view(np.uint8).reshape(rows, -1)


def _unpack(packed: np.ndarray) -> np.ndarray:
    bytes_ = packed.reshape(len(packed), -1, 1, BLOCK // 2)
    halves = np.concatenate((bytes_ & 15, bytes_ >> 4), 2).astype(np.int8)
    return (halves - ZERO).reshape(len(packed), -1)
