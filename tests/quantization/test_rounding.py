"""Rounding that sees inputs: less is lost of the outputs, for rows that were not seen too."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_glm.ops.quantized import dequantize, quantize
from mindformers_glm.quantization.rounding import rounded, weighted_scale


def spread(random, tokens: int, columns: int, mixing: np.ndarray) -> np.ndarray:
    return (random.normal(size=(tokens, columns)) @ mixing).astype(np.float32)


def lost(weight: np.ndarray, found: np.ndarray, x: np.ndarray) -> float:
    return float(np.linalg.norm(x @ (found - weight).T) / np.linalg.norm(x @ weight.T))


@pytest.mark.parametrize("group", [16, 32, 96])
def test_the_loss_of_outputs_is_halved(group):
    random = np.random.default_rng(0)
    mixing = random.normal(size=(96, 96)) * np.exp(random.normal(size=96))
    weight = random.normal(size=(40, 96)).astype(np.float32)
    weight[3] = 0
    seen, unseen = (spread(random, 500, 96, mixing) for _ in range(2))
    found = rounded(weight, seen.T @ seen / len(seen), group_size=group)
    plain = dequantize(quantize(weight, bits=4, group_size=group), bits=4, columns=96)
    floats = dequantize(found.weight, bits=4, columns=96)
    assert found.weight.weight.dtype == np.uint8 and found.weight.scale.shape == (40, 96 // group)
    assert not floats[3].any()
    assert lost(weight, floats, seen) < 0.55 * lost(weight, plain, seen)
    assert lost(weight, floats, unseen) < 0.6 * lost(weight, plain, unseen)
    assert found.error == pytest.approx(lost(weight, floats, seen), rel=1e-3) and found.error < found.nearest


def test_inputs_that_never_came_do_no_harm():
    random = np.random.default_rng(1)
    weight = random.normal(size=(8, 32)).astype(np.float32)
    nothing = rounded(weight, np.zeros((32, 32), np.float32), group_size=32)
    assert nothing.error == 0 and np.isfinite(dequantize(nothing.weight, bits=4, columns=32)).all()
    one = np.zeros((32, 32), np.float32)
    one[5, 5] = 4
    floats = dequantize(rounded(weight, one, group_size=32).weight, bits=4, columns=32)
    np.testing.assert_allclose(floats[:, 5], weight[:, 5], atol=0.1)


def test_scales_serve_the_columns_that_count():
    random = np.random.default_rng(2)
    weight = random.normal(size=(16, 32)).astype(np.float32)
    counts = np.ones(32, np.float32)
    counts[7] = 1000
    errors = []
    for importance in (np.ones(32, np.float32), counts):
        scale = weighted_scale(weight, importance, 32).astype(np.float32)
        errors.append(np.abs(np.clip(np.rint(weight / scale), -8, 7) * scale - weight)[:, 7].mean())
    assert errors[1] < 0.6 * errors[0]
