"""Weights of 4 bits rounded for the inputs that were seen: error feedback (GPTQ) with scales chosen by those inputs.

Of a layer y = W x the error tr((W - Q) H (W - Q)') with H, the mean of x x', is what is made small. Frantar et al.,
GPTQ, 2022; Lin et al., AWQ, 2023 (scales by activation). Shapes: N rows, K columns, g group, G = K / g groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mindformers_glm.ops.quantized import ZERO, Quantized, packed

_BLOCK = 128  # columns whose errors go to the columns after them together
_DAMPING = 0.01  # of the mean of H's diagonal, added to it
_SHRINKS = np.linspace(1.0, 0.68, 9, dtype=np.float32)  # of the scale that fits the largest number
_SWEEPS = 4  # over all columns and scales, after the first rounding


class Rounded(NamedTuple):
    """The integers with their scales, and the error of the layer's outputs beside their size, now and to nearest."""

    weight: Quantized
    error: float
    nearest: float


def rounded(weight: np.ndarray, squares: np.ndarray, *, group_size: int) -> Rounded:
    """The integers -8 to 7 of a float weight (N, K) that lose little of the outputs, for inputs with mean x x' (K, K).

    Columns go by falling diagonal of H, each with the scale of its group. Then integers and scales are taken in turn,
    each the best for the others as they are.
    """
    wide = np.asarray(weight, np.float32)
    damped = _damped(squares)
    scale = weighted_scale(wide, np.diagonal(damped), group_size)
    nearest = _nearest(wide, scale, group_size)
    whole = _fed_forward(wide, damped, scale, group_size)
    whole, scale = _refined(wide, damped, whole, scale, group_size)
    size = _loss(wide, squares)
    errors = (_loss(wide - _floats(*pair, group_size), squares) for pair in ((whole, scale), (nearest, scale)))
    found, plain = ((error / size) ** 0.5 if size else 0.0 for error in errors)
    return Rounded(Quantized(packed(whole.astype(np.int8), 4), scale), found, plain)


def weighted_scale(weight: np.ndarray, importance: np.ndarray, group_size: int) -> np.ndarray:
    """float16 scales (N, G) by which rounding to nearest loses least, columns counting by their `importance` (K)."""
    groups = weight.reshape(len(weight), -1, group_size)
    counts = importance.reshape(1, -1, group_size).astype(np.float32)
    place = np.abs(groups).argmax(-1)[..., None]
    largest = np.take_along_axis(groups, place, -1)[..., 0] / -ZERO
    best, best_error = largest.astype(np.float16), np.full(largest.shape, np.inf, np.float32)
    for shrink in (*_SHRINKS, *-_SHRINKS[::2]):
        tried = largest * shrink
        whole = np.clip(np.rint(groups * _inverse(tried)), -ZERO, ZERO - 1)
        size = (counts * whole * whole).sum(-1)
        fitted = np.divide((counts * whole * groups).sum(-1), size, out=tried.copy(), where=size > 0)
        fitted = np.clip(fitted, -65504, 65504).astype(np.float16)
        error = (counts * np.square(whole * fitted[..., None].astype(np.float32) - groups)).sum(-1)
        best = np.where(error < best_error, fitted, best)
        best_error = np.minimum(error, best_error)
    return best


def _damped(squares: np.ndarray) -> np.ndarray:
    """H with columns that never were anything counting little, and its diagonal raised."""
    wide = np.array(squares, np.float32)
    diagonal = np.einsum("ii->i", wide)
    usual = float(diagonal.mean()) or 1.0
    diagonal += np.float32(_DAMPING * usual)
    return wide


def _nearest(weight: np.ndarray, scale: np.ndarray, group_size: int) -> np.ndarray:
    groups = weight.reshape(len(weight), -1, group_size)
    whole = np.clip(np.rint(groups * _inverse(scale)), -ZERO, ZERO - 1)
    return whole.reshape(weight.shape).astype(np.float32)


def _fed_forward(weight: np.ndarray, damped: np.ndarray, scale: np.ndarray, group_size: int) -> np.ndarray:
    """Whole numbers (N, K) as float32: what a column loses is taken up by those after it."""
    order = np.argsort(-np.diagonal(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)].astype(np.float64))
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    left, scales = weight[:, order].copy(), scale.astype(np.float32)
    whole = np.empty_like(left)
    for begin in range(0, len(order), _BLOCK):
        end = min(begin + _BLOCK, len(order))
        part, errors = left[:, begin:end], np.empty((len(left), end - begin), np.float32)
        for i in range(end - begin):
            factor = scales[:, order[begin + i] // group_size]
            whole[:, begin + i] = _clipped(part[:, i], factor)
            errors[:, i] = (part[:, i] - whole[:, begin + i] * factor) / upper[begin + i, begin + i]
            part[:, i + 1 :] -= np.outer(errors[:, i], upper[begin + i, begin + i + 1 : end])
        left[:, end:] -= errors @ upper[begin:end, end:]
    back = np.empty_like(whole)
    back[:, order] = whole
    return back


def _refined(
    weight: np.ndarray, damped: np.ndarray, whole: np.ndarray, scale: np.ndarray, group_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales, each in turn the best for the others: the error only falls."""
    scales, diagonal = scale.astype(np.float32), np.diagonal(damped)
    step = max(group_size, _BLOCK // group_size * group_size)
    for _ in range(_SWEEPS):
        rest = (weight - _floats(whole, scales, group_size)) @ damped  # (N, K): half of the gradient, negative
        for begin in range(0, weight.shape[1], step):
            end = min(begin + step, weight.shape[1])
            block, inner = damped[begin:end, begin:end], rest[:, begin:end]
            before = _floats(whole[:, begin:end], scales[:, begin // group_size : end // group_size], group_size)
            for group in range(begin // group_size, end // group_size):
                at = slice(group * group_size - begin, (group + 1) * group_size - begin)
                columns = whole[:, begin + at.start : begin + at.stop]
                curve = np.einsum("nk,nk->n", columns @ block[at, at], columns)
                gain = np.einsum("nk,nk->n", inner[:, at], columns)
                wanted = scales[:, group] + np.divide(gain, curve, out=np.zeros_like(gain), where=curve > 0)
                wanted = np.clip(wanted, -65504, 65504).astype(np.float16).astype(np.float32)
                inner -= ((wanted - scales[:, group])[:, None] * columns) @ block[at]
                scales[:, group] = wanted
                for i in range(at.start, at.stop):
                    column, factor = begin + i, wanted
                    held = whole[:, column] * factor
                    tried = _clipped(held + inner[:, i] / diagonal[column], factor)
                    inner -= np.outer((tried - whole[:, column]) * factor, block[i])
                    whole[:, column] = tried
            after = _floats(whole[:, begin:end], scales[:, begin // group_size : end // group_size], group_size)
            rest[:, end:] -= (after - before) @ damped[begin:end, end:]
    return whole, scales.astype(np.float16)


def _clipped(values: np.ndarray, factor: np.ndarray) -> np.ndarray:
    divided = np.divide(values, factor, out=np.zeros_like(values), where=factor != 0)
    return np.clip(np.rint(divided), -ZERO, ZERO - 1)


def _floats(whole: np.ndarray, scale: np.ndarray, group_size: int) -> np.ndarray:
    groups = whole.reshape(len(whole), -1, group_size) * scale.astype(np.float32)[:, :, None]
    return groups.reshape(whole.shape)


def _loss(error: np.ndarray, squares: np.ndarray) -> float:
    return float(max(np.einsum("nk,nk->", error @ squares.astype(np.float32), error, dtype=np.float64), 0.0))


def _inverse(scale: np.ndarray) -> np.ndarray:
    wide = scale.astype(np.float32)
    return np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)[..., None]
