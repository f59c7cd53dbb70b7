"""Compiled operators of a layer, the loss and the update, against the formulas."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.ops.attention import AttentionWithGradient, CausalAttention, causal_mask, join_heads, split_heads
from mindformers_glm.ops.cross_entropy import HeadCrossEntropy
from mindformers_glm.ops.kernels.library import library
from mindformers_glm.ops.kernels.operators import formulas_only
from mindformers_glm.ops.rms_norm import RmsNormWithGradient
from mindformers_glm.ops.rotary import RotateHeadsWithGradient, head_scales, rotary_table
from mindformers_glm.ops.swiglu import SwiGLUWithGradient
from mindformers_glm.optim import AdamW, FP32StateAdamWeightDecay, SquaredNorm

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not built")


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


def numbers(*shape, seed=0, size=1.0):
    return Tensor((np.random.RandomState(seed).randn(*shape) * size).astype(np.float32))


class Weighed(nn.Cell):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, slope, *inputs):
        return (self.cell(*inputs) * slope).sum()


class Both(nn.Cell):
    """A norm whose second result, the rows themselves, is used too."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def construct(self, x, weight):
        normed, same = self.norm(x, weight)
        return normed * 2 + same * same


def both_ways(cell, positions, *inputs, tolerance=2e-5):
    """Value and gradients by kernels equal those by formulas, relative to the largest number of each."""
    by_kernel = ms.value_and_grad(Weighed(cell), positions)(*inputs)
    plain = Weighed(cell)
    with formulas_only(plain):
        by_formula = ms.value_and_grad(plain, positions)(*inputs)
    np.testing.assert_allclose(by_kernel[0].asnumpy(), by_formula[0].asnumpy(), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(by_kernel[1], by_formula[1], strict=True):
        ours, theirs = ours.asnumpy(), theirs.asnumpy()
        np.testing.assert_allclose(ours, theirs, atol=tolerance * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (33, 16), (70, 50), (200, 257)])
@pytest.mark.slow_where(lambda mode, rows: mode == ms.GRAPH_MODE and rows != 70)
def test_rms_norm(mode, rows, width):
    inputs = numbers(rows, width, seed=1), numbers(rows, width, seed=2), numbers(width, seed=3)
    both_ways(Both(RmsNormWithGradient(1e-5)), (1, 2), *inputs, tolerance=1e-4)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (33, 16), (70, 50)])
@pytest.mark.slow_where(lambda mode, rows: mode == ms.GRAPH_MODE and rows != 70)
def test_swiglu(mode, rows, width):
    both_ways(SwiGLUWithGradient(), (1,), numbers(rows, width, seed=1), numbers(rows, 2 * width, seed=2, size=4))


class Layerwise(nn.Cell):
    """Attention as a layer does it, by the kernel or by the formulas."""

    def __init__(self, *, batch, heads, kv_heads, channels, tokens, rotated=None):
        super().__init__()
        self.batch, self.heads, self.kv_heads, self.channels = batch, heads, kv_heads, channels
        self.whole = CausalAttention(heads=heads, head_dim=channels)
        self.rotate = RotateHeadsWithGradient(heads=heads, kv_heads=kv_heads, channels=channels, rotated=rotated)
        self.attention = AttentionWithGradient()
        table = rotary_table(length=tokens, channels=channels, rotated=rotated)
        scale = head_scales(heads=heads, kv_heads=kv_heads, channels=channels)
        factor, offset = scale
        self.cos = Tensor(table[None, None, :, 0] * factor + offset)
        self.sin = Tensor(table[None, None, :, 1] * factor)
        self.mask = causal_mask(ops.arange(tokens).reshape(1, -1), groups=heads // kv_heads)

    def construct(self, x):
        if self.whole.takes(x, self.cos, self.mask):
            return self.whole(x, self.cos, self.sin)
        heads = self.heads + 2 * self.kv_heads
        x = split_heads(x, batch=self.batch, heads=heads, head_dim=self.channels)
        q, k, v = self.rotate(x, self.cos, self.sin)
        out = self.attention(q, k, v, self.mask)[0]
        return join_heads(out, batch=self.batch, heads=self.heads)


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "kv_heads", "channels"),
    [(1, 1, 2, 1, 4), (2, 5, 4, 2, 8), (2, 33, 4, 2, 16), (1, 70, 6, 2, 20), (3, 64, 2, 2, 64), (1, 201, 4, 1, 48)],
)
@pytest.mark.slow_where(lambda mode, tokens: mode == ms.GRAPH_MODE and tokens not in (1, 33))
def test_causal_attention(mode, batch, tokens, heads, kv_heads, channels):
    cell = Layerwise(batch=batch, heads=heads, kv_heads=kv_heads, channels=channels, tokens=tokens)
    x = numbers(batch * tokens, (heads + 2 * kv_heads) * channels, seed=1, size=2)
    if tokens == 1 and mode == ms.PYNATIVE_MODE:  # there MindSpore derives a wrong gradient of the formula
        by_kernel = cell(x).asnumpy()
        with formulas_only(cell):
            np.testing.assert_allclose(by_kernel, cell(x).asnumpy(), atol=1e-5)
        return
    both_ways(cell, (1,), numbers(batch * tokens, heads * channels, seed=2), x)


def test_whole_heads_that_turn(mode):
    cell = Layerwise(batch=2, heads=4, kv_heads=1, channels=16, tokens=37, rotated=16)
    both_ways(cell, (1,), numbers(2 * 37, 4 * 16, seed=2), numbers(2 * 37, 6 * 16, seed=1, size=2))


def test_two_networks_whose_rows_are_equally_wide(mode):
    """MindSpore keeps the shapes of an operator's outputs by the shapes of its inputs: heads are no part of these."""
    for heads in (4, 6, 2):  # with 2, 1 and 3 heads of keys
        cell = CausalAttention(heads=heads, head_dim=8)
        cos, sin = Tensor(np.ones((1, 8, 5, 8), np.float32)), Tensor(np.zeros((1, 8, 5, 8), np.float32))
        x = numbers(5, 64, seed=heads)
        assert cell(x, cos, sin).shape == (5, heads * 8)
        assert cell.packed(x, cos, sin, ops.zeros((1, 5), ms.int32)).shape == (5, heads * 8)


@pytest.mark.usefixtures("pynative")
def test_causal_attention_against_differences():
    cell = Layerwise(batch=1, heads=4, kv_heads=2, channels=8, tokens=9)
    slope, x, way = numbers(9, 32, seed=1), numbers(9, 64, seed=2), numbers(9, 64, seed=3)
    found = ms.grad(Weighed(cell), 1)(slope, x)
    step = 1e-2
    up, down = (float(Weighed(cell)(slope, x + way * sign * step)) for sign in (1, -1))
    assert abs((up - down) / (2 * step) - float((found * way).sum())) < 2e-2


class Loss(nn.Cell):
    def __init__(self, head, labels):
        super().__init__()
        self.head, self.labels = head, labels

    def construct(self, hidden, weight):
        return self.head(hidden, weight, self.labels)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("rows", "width", "classes"), [(1, 4, 3), (7, 20, 50), (33, 24, 300)])
@pytest.mark.slow_where(lambda mode, rows, frozen: mode == ms.GRAPH_MODE and (rows != 33 or frozen))
def test_head_cross_entropy(mode, rows, width, classes, frozen):
    labels = np.random.RandomState(0).randint(0, classes, rows).astype(np.int32)
    labels[1::3] = -100
    cell = Loss(HeadCrossEntropy(frozen=frozen), Tensor(labels))
    slope = Tensor(2.5, ms.float32)
    both_ways(cell, (1, 2), slope, numbers(rows, width, seed=1, size=3), numbers(classes, width, seed=2))


@pytest.mark.usefixtures("pynative")
def test_head_cross_entropy_without_labels():
    cell = Loss(HeadCrossEntropy(), Tensor(np.full(5, -100, np.int32)))
    value, grads = ms.value_and_grad(cell, (0, 1))(numbers(5, 8), numbers(20, 8))
    assert float(value) == 0
    assert not any(grad.asnumpy().any() for grad in grads)


@pytest.mark.parametrize("kind", [FP32StateAdamWeightDecay, AdamW])
@pytest.mark.slow_where(lambda mode, kind: mode == ms.GRAPH_MODE and kind is AdamW)
def test_adam(mode, kind):
    class Step(nn.Cell):
        def __init__(self, optimizer):
            super().__init__()
            self.optimizer, self.factor = optimizer, Tensor(0.3, ms.float32)

        def construct(self, grads):
            return self.optimizer.scaled(grads, self.factor)

    found = []
    for with_kernel in (True, False):
        values = [numbers(70, 1001, seed=1), numbers(5, seed=2), numbers(1, seed=3)]
        parameters = [Parameter(value.copy(), name=f"w{i}") for i, value in enumerate(values)]
        groups = [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:]}]
        optimizer = kind(groups, learning_rate=1e-2)
        if not with_kernel:
            optimizer.kernel = None
        step = Step(optimizer)
        for seed in range(3):
            step(ms.mutable(tuple(numbers(*p.shape, seed=10 + seed, size=1e-3) for p in parameters)))
        found.append([p.asnumpy() for p in (*parameters, *optimizer.moments1, *optimizer.moments2)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_squared_norm(mode):
    grads = tuple(numbers(*shape, seed=i) for i, shape in enumerate(((300, 400), (7,), (1,), (64, 65))))
    wanted = sum(np.square(grad.asnumpy().astype(np.float64)).sum() for grad in grads)
    norm = SquaredNorm()
    np.testing.assert_allclose(float(norm(ms.mutable(grads))), wanted, rtol=1e-5)
    for wrong in (np.inf, np.nan):
        assert not np.isfinite(float(norm(ms.mutable((*grads, Tensor([1.0, wrong], ms.float32))))))
