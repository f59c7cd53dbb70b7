"""Linear layers of 8 bits on both sides: weights with a scale for each row, inputs with one scale and offset.

Source: ModelSlim's files as ATB's chatglm2/6b reads them. Shapes: N outputs, K inputs, T tokens. Rounding is half to
even, arithmetic float32. NumPy alone; the kernel is in kernels/source/linear_whole.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_NUMBERS = 1 << 22  # numbers of a weight that are rounded at a time
OUTLIER_SHARE = 0.011  # share of the numbers of a layer that keep 8 bits in the sparse form


class Layer(NamedTuple):
    """One linear layer. Fields are the files' names and types: float32, but int8 (N, K) and int32 (N)."""

    deq_scale: np.ndarray
    fp_bias: np.ndarray
    input_offset: np.ndarray
    input_scale: np.ndarray
    quant_bias: np.ndarray
    quant_weight: np.ndarray
    weight_offset: np.ndarray
    weight_scale: np.ndarray


def quantized(weight: np.ndarray, bias: np.ndarray | None, low: float, high: float, *, sparse: bool = False) -> Layer:
    """A layer of a float weight (N, K), for inputs between `low` and `high`.

    input_scale = (max(high, 0) - min(low, 0)) / 255, input_offset = round(-min(low, 0) / input_scale) - 128,
    weight_scale = max|row| / 127. With `sparse` all but the largest 1.1 % of the numbers fit into 4 bits: the scale is
    that of the others over 7; it is this project's own choice, ModelSlim's is not public.
    """
    wide = np.asarray(weight, np.float32)
    rows = len(wide)
    fp_bias = np.zeros(rows, np.float32) if bias is None else np.asarray(bias, np.float32)
    below, above = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    input_scale = np.float32((above - below) / np.float32(255)) or np.float32(1)
    input_offset = np.float32(np.rint(-below / input_scale) - 128)
    scale = _sparse_scale(wide) if sparse else _largest(wide) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    whole = _rounded(wide, scale)
    deq_scale = (input_scale * scale).astype(np.float32)
    sums = whole.sum(1, dtype=np.int64).astype(np.float32)
    quant_bias = np.rint(fp_bias / deq_scale - sums * input_offset).astype(np.int32)
    return Layer(
        deq_scale,
        fp_bias,
        np.array([input_offset], np.float32),
        np.array([input_scale], np.float32),
        quant_bias,
        whole,
        np.zeros((rows, 1), np.float32),
        scale[:, None],
    )


def _rounded(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 (N, K), computed a few rows at a time: a large weight needs little more memory."""
    whole = np.empty(weight.shape, np.int8)
    step = max(1, _NUMBERS // weight.shape[1])
    for begin in range(0, len(weight), step):
        at = slice(begin, begin + step)
        whole[at] = np.clip(np.rint(weight[at] / scale[at, None]), -127, 127)
    return whole


def _largest(weight: np.ndarray) -> np.ndarray:
    """max|row| (N)."""
    return np.maximum(weight.max(1), -weight.min(1))


def _sparse_scale(weight: np.ndarray) -> np.ndarray:
    """Scales (N) with which the numbers of each row, except outliers of the layer, are within -7 to 7."""
    sizes = np.abs(weight)
    border = np.quantile(sizes, 1 - OUTLIER_SHARE)
    usual = np.where(sizes <= border, sizes, 0).max(1)
    return np.maximum(usual / np.float32(7), sizes.max(1) / np.float32(127)).astype(np.float32)


def per_token(weight: np.ndarray, bias: np.ndarray | None) -> Layer:
    """A layer whose inputs have a scale for each token, max|x| / 127: input_scale and input_offset are 0.

    deq_scale is weight_scale, and quant_bias is 0: the bias is added to floats.
    """
    wide = np.asarray(weight, np.float32)
    scale = _largest(wide) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    whole = _rounded(wide, scale)
    rows, none = len(wide), np.zeros(1, np.float32)
    fp_bias = np.zeros(rows, np.float32) if bias is None else np.asarray(bias, np.float32)
    offsets = np.zeros((rows, 1), np.float32)
    return Layer(scale, fp_bias, none, none, np.zeros(rows, np.int32), whole, offsets, scale[:, None])


def dequantized(layer: Layer) -> np.ndarray:
    """The float32 weight (N, K) of the integers of a layer."""
    return layer.quant_weight.astype(np.float32) * layer.weight_scale


def output(x: np.ndarray, layer: Layer) -> np.ndarray:
    """Outputs (T, N) of the layer for inputs x (T, K), as the device computes them: in integers, scaled at the end.

    x_q = clip(round(x / input_scale + input_offset), -128, 127); y = (x_q W' + quant_bias) * deq_scale. With an
    input_scale of 0: x_q = round(x / s), s = max|x| / 127 of each token; y = (x_q W') * deq_scale * s + fp_bias.
    """
    wide = x.astype(np.float32)
    if layer.input_scale[0] > 0:
        whole = np.clip(np.rint(wide / layer.input_scale + layer.input_offset), -128, 127)
        return _sums(whole, layer).astype(np.float32) * layer.deq_scale
    own = np.abs(wide).max(1, keepdims=True) / np.float32(127)
    whole = np.rint(wide / np.where(own > 0, own, np.float32(1)))
    return _sums(whole, layer).astype(np.float32) * layer.deq_scale * own + layer.fp_bias


def _sums(whole: np.ndarray, layer: Layer) -> np.ndarray:
    return (whole.astype(np.float64) @ layer.quant_weight.T.astype(np.float64)).astype(np.int64) + layer.quant_bias
