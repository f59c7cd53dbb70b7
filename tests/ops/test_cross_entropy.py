"""Cross entropy against numpy, the chunked head against the whole one, and gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from gradients import assert_derivative, both_gradients, gradients
from mindspore import Tensor, nn

from mindformers_glm.ops import cross_entropy as module
from mindformers_glm.ops.cross_entropy import CrossEntropy, HeadCrossEntropy, cross_entropy
from mindformers_glm.ops.kernels.library import library
from mindformers_glm.ops.linear import linear


def reference(logits, labels):
    logits, kept = logits.astype(float), labels >= 0
    top = logits.max(-1, keepdims=True)
    rows = (np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top)[:, 0] - logits[
        np.arange(len(logits)), np.where(kept, labels, 0)
    ]
    return (rows * kept).sum() / (kept.sum() + 1e-5)


def batch(rows, vocabulary, width=6, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(rows) < 0.3, -100, rng.integers(0, vocabulary, rows)).astype(np.int32)
    hidden, weight = (rng.normal(0, scale, (n, width)).astype(np.float32) for n in (rows, vocabulary))
    return Tensor(hidden), Tensor(weight), Tensor(labels)


class Whole(nn.Cell):
    def __init__(self):
        super().__init__()
        self.loss = CrossEntropy()

    def construct(self, hidden, weight, labels):
        return self.loss(linear(hidden, weight), labels)


@pytest.mark.parametrize("rows, vocabulary", [(1, 2), (5, 7), (64, 1001)])
@pytest.mark.slow_where(lambda mode, rows: mode == "graph" and rows != 64)
def test_the_loss_equals_numpy(rows, vocabulary, mode):
    hidden, weight, labels = batch(rows, vocabulary)
    logits = hidden.asnumpy() @ weight.asnumpy().T
    expected = reference(logits, labels.asnumpy())
    assert float(cross_entropy(Tensor(logits), labels)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert float(HeadCrossEntropy()(hidden, weight, labels)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.usefixtures("pynative")
def test_an_impossible_target_has_its_true_loss():
    logits = np.zeros((2, 5), np.float32)
    logits[:, 0] = 500
    labels = np.array([3, 0], np.int32)
    assert float(cross_entropy(Tensor(logits), Tensor(labels))) == pytest.approx(reference(logits, labels), rel=1e-5)


def test_nothing_supervised_is_zero_with_a_zero_gradient(mode):
    hidden, weight, _ = batch(4, 9)
    labels = Tensor(np.full(4, -100, np.int32))
    for cell in (Whole(), HeadCrossEntropy()):
        assert float(cell(hidden, weight, labels)) == 0
        assert not any(slope.any() for slope in gradients(cell, hidden, weight, labels))


@pytest.mark.usefixtures("pynative")
def test_the_gradient_is_softmax_minus_target():
    hidden, weight, labels = batch(6, 9)
    logits = Tensor(hidden.asnumpy() @ weight.asnumpy().T)
    slope = gradients(CrossEntropy(), logits, labels)[0]
    probs = np.exp(logits.asnumpy() - logits.asnumpy().max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    kept = labels.asnumpy() >= 0
    probs[np.arange(6)[kept], labels.asnumpy()[kept]] -= 1
    np.testing.assert_allclose(slope, probs * kept[:, None] / (kept.sum() + 1e-5), atol=1e-6)


@pytest.mark.usefixtures("pynative")
def test_the_gradients_are_derivatives():
    assert_derivative(Whole(), *batch(5, 11))
    assert_derivative(HeadCrossEntropy(), *batch(5, 11))


@pytest.mark.parametrize("chunk", [1, 22, 44, 10**6])
def test_chunks_change_nothing(chunk, monkeypatch):
    ms.set_context(mode=ms.GRAPH_MODE if chunk == 22 else ms.PYNATIVE_MODE)
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk)
    both_gradients(Whole(), HeadCrossEntropy(), *batch(5, 11))


@pytest.mark.slow_where(lambda mode: mode == "graph")
def test_what_comes_back_scales_the_gradient(mode):
    hidden, weight, labels = batch(5, 11)

    class Scaled(nn.Cell):
        def __init__(self, loss, scale):
            super().__init__()
            self.loss, self.scale = loss, scale

        def construct(self, hidden, weight, labels):
            return self.loss(hidden, weight, labels) * self.scale

    for loss in (Whole, HeadCrossEntropy):
        plain, scaled = (gradients(Scaled(loss(), scale), hidden, weight, labels) for scale in (1.0, 1024.0))
        for one, other in zip(plain, scaled, strict=True):
            np.testing.assert_allclose(one * 1024, other, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("pynative")
def test_half_precision_rows_give_a_float32_loss():
    hidden, weight, labels = batch(8, 50)
    loss = HeadCrossEntropy()(hidden.astype(ms.float16), weight, labels)
    assert loss.dtype == ms.float32
    assert float(loss) == pytest.approx(float(Whole()(hidden, weight, labels)), rel=5e-3)


@pytest.mark.usefixtures("pynative")
def test_labels_of_64_bits_are_the_same_labels():
    hidden, weight, labels = batch(6, 50)
    wide = ms.Tensor(labels.asnumpy().astype(np.int64))
    for loss, given in ((HeadCrossEntropy(), (hidden, weight)), (CrossEntropy(), (hidden @ weight.T,))):
        assert float(loss(*given, wide)) == float(loss(*given, labels))


@pytest.mark.skipif(library() is None, reason="the kernels are not built")
@pytest.mark.parametrize("wrong", [-1, 50, -(2**31)])
@pytest.mark.usefixtures("pynative")
def test_a_label_beyond_the_vocabulary_is_an_error_and_writes_nowhere(wrong):
    hidden, weight, labels = batch(6, 50)
    numbers = labels.asnumpy().copy()
    numbers[3] = wrong
    with pytest.raises(RuntimeError):
        float(HeadCrossEntropy()(hidden, weight, ms.Tensor(numbers)))


@pytest.mark.skipif(library() is None, reason="the kernels are not built")
@pytest.mark.parametrize("kept", [[0, 1, 2], [5, 6, 7, 8], [1, 4, 5, 11], list(range(12))])
@pytest.mark.usefixtures("pynative")
def test_ignored_rows_are_left_out(kept):
    hidden, weight, _ = batch(12, 50)
    labels = np.full(12, -100, np.int32)
    labels[kept] = np.arange(len(kept))
    rows = hidden.asnumpy().copy()
    rows[labels < 0] = np.nan  # nobody looks at them
    found = [HeadCrossEntropy()(Tensor(x), weight, Tensor(y)) for x, y in ((rows, labels), (rows[kept], labels[kept]))]
    assert float(found[0]) == float(found[1])
    whole, some = (
        gradients(HeadCrossEntropy(), Tensor(x), weight, Tensor(y))
        for x, y in ((rows, labels), (rows[kept], labels[kept]))
    )
    assert (whole[0][kept] == some[0]).all()
    assert not whole[0][labels < 0].any()
    assert (whole[1] == some[1]).all()
