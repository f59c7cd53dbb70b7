"""The operators of Ascend, as far as a CPU can tell: when they are chosen, how called, what it means.

MindSpore is told that the device is Ascend. Calls are compiled up to the graph, which MindSpore infers and
differentiates without a device; values are computed with conformance/documented.py in the operators' place.
"""

from __future__ import annotations

import inspect
from collections import Counter
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.train import mind_ir_pb2 as proto
from tiny_networks import loss_and_gradients, random_network

from mindformers_glm import log
from mindformers_glm.conformance import documented as documented_operators
from mindformers_glm.errors import ConfigError
from mindformers_glm.export.graph_file import trace
from mindformers_glm.ops import ascend
from mindformers_glm.ops.attention import AttentionWithGradient, CausalAttention, causal_mask, join_heads, split_heads
from mindformers_glm.ops.kernels.operators import formulas_only, use_formulas
from mindformers_glm.ops.rms_norm import RmsNorm, RmsNormWithGradient
from mindformers_glm.ops.rotary import RotateHeads, head_scales, rotary_table
from mindformers_glm.ops.swiglu import SwiGLU, SwiGLUWithGradient

NAMES = ("rms_norm", "swiglu", "rotary_position_embedding", "flash_attention_score")
OPERATORS = {"RmsNorm", "Swiglu", "RotaryPositionEmbedding", "FlashAttentionScore"}
GRADIENTS = {name + "Grad" for name in OPERATORS}
HALVES = {"kv_channels": 16, "compute_dtype": "float16", "use_flash_attention": True}
TOKENS = np.random.default_rng(0).integers(0, 101, (2, 12)).astype(np.int32)


@pytest.fixture
def on_ascend(monkeypatch):
    """Tells the package that the device is Ascend."""
    real = ms.get_context
    monkeypatch.delenv("GLM_KERNELS", raising=False)
    monkeypatch.setattr(ms, "get_context", lambda name: "Ascend" if name == "device_target" else real(name))


@pytest.fixture
def documented(on_ascend, monkeypatch):
    """Puts conformance/documented.py in the place of MindSpore's, and counts the calls."""
    calls = Counter()

    def counted(name):
        def call(*args, **kwargs):
            calls[name] += 1
            return getattr(documented_operators, name)(*args, **kwargs)

        return call

    for name in NAMES:
        monkeypatch.setattr(ops, name, counted(name))
    return calls


def made():
    return [
        RmsNorm(1e-5),
        RmsNormWithGradient(1e-5),
        SwiGLU(),
        SwiGLUWithGradient(),
        CausalAttention(heads=4, head_dim=16),
    ]


def numbers(*shape, dtype=ms.float32, seed=0):
    return Tensor(np.random.RandomState(seed).randn(*shape).astype(np.float32)).astype(dtype)


def places(*, tokens, heads=4, kv_heads=2, channels=16, batch=1):
    """cos, sin and mask of tokens 0 to T - 1."""
    table = np.tile(rotary_table(length=tokens, channels=channels)[None, None], (batch, 1, 1, 1, 1))
    factor, offset = head_scales(heads=heads, kv_heads=kv_heads, channels=channels)
    positions = Tensor(np.tile(np.arange(tokens, dtype=np.int32), (batch, 1)))
    mask = causal_mask(positions, groups=heads // kv_heads)
    return Tensor(table[:, :, :, 0] * factor + offset), Tensor(table[:, :, :, 1] * factor), mask


class Layerwise(nn.Cell):
    """Attention as a layer does it, by formulas in float32."""

    def __init__(self, *, batch, heads, kv_heads, channels):
        super().__init__()
        self.batch, self.heads, self.kv_heads, self.channels = batch, heads, kv_heads, channels
        self.rotate = RotateHeads(heads=heads, kv_heads=kv_heads, channels=channels)
        self.attention = AttentionWithGradient()

    def construct(self, x, cos, sin, mask):
        heads = self.heads + 2 * self.kv_heads
        q, k, v = self.rotate(split_heads(x, batch=self.batch, heads=heads, head_dim=self.channels), cos, sin)
        return join_heads(self.attention(q, k, v, mask)[0], batch=self.batch, heads=self.heads)


class Whole(nn.Cell):
    """The kernel of attention, where it is taken, and zeros elsewhere."""

    def __init__(self, **sizes):
        super().__init__()
        self.whole = CausalAttention(**sizes)

    def construct(self, x, cos, sin, mask):
        if self.whole.takes(x, cos, mask):
            return self.whole(x, cos, sin)
        return ops.zeros_like(x)


class Normed(nn.Cell):
    """The normed rows alone."""

    def __init__(self):
        super().__init__()
        self.norm = RmsNormWithGradient(1e-5)

    def construct(self, x, weight):
        return self.norm(x, weight)[0]


class Slope(nn.Cell):
    """The gradients of a Cell for all its inputs."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.gradient = cell, ops.GradOperation(get_all=True)

    def construct(self, *inputs):
        return self.gradient(self.cell)(*inputs)


class LossSlope(nn.Cell):
    """The gradients of a network's loss for its weights."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.weights = ms.ParameterTuple(network.trainable_params())
        self.gradient = ops.GradOperation(get_by_list=True)

    def construct(self, tokens, labels):
        return self.gradient(self.network, self.weights)(tokens, labels)


def graph(cell, *inputs, tmp_path):
    """The graph that MindSpore makes of a Cell, and how often each operator stands in it."""
    found = proto.ModelProto()
    ms.export(cell, *inputs, file_name=str(tmp_path / "graph"), file_format="MINDIR", custom_func=found.CopyFrom)
    kinds = {f"REF::{primitive.name}": primitive.op_type for primitive in found.primitives}
    nodes = [node for part in (found.graph, *found.functions) for node in part.node]
    return found, Counter(kinds.get(node.op_type, node.op_type) for node in nodes)


# -- when they are chosen


def test_on_a_processor_none_is_chosen():
    assert not ascend.is_wanted()
    assert not any(cell.is_ascend for cell in made())


def test_on_ascend_each_is_chosen_and_the_switch_undoes_it(on_ascend, monkeypatch):
    assert all(cell.is_ascend and cell.kernel_is_on for cell in made())
    assert isinstance(made()[4].kernel, ascend.FlashAttention)
    monkeypatch.setenv("GLM_KERNELS", "off")
    assert not any(cell.is_ascend or cell.kernel_is_on for cell in made())


def test_another_word_in_the_switch_is_refused(on_ascend, monkeypatch):
    monkeypatch.setenv("GLM_KERNELS", "OFF")
    with pytest.raises(ConfigError, match="GLM_KERNELS: got 'OFF'. On Ascend use auto, or off"):
        RmsNorm(1e-5)


@pytest.mark.parametrize(("soc", "wanted"), [("ascend910", False), ("ascend910b", True), ("ascend910_93", True)])
def test_the_first_generation_has_none(on_ascend, monkeypatch, soc, wanted):
    context = SimpleNamespace(get_instance=lambda: SimpleNamespace(get_ascend_soc_version=lambda: soc))
    monkeypatch.setattr("mindspore._c_expression.MSContext", context)
    assert ascend.is_wanted() is wanted


def test_formulas_only_switches_them_off_and_on_again(on_ascend):
    network = nn.CellList(made())
    with formulas_only(network):
        assert not any(cell.kernel_is_on for cell in network)
    assert all(cell.kernel_is_on for cell in network)
    assert use_formulas(network, keep_ascend=True) == [] and network[0].kernel_is_on
    assert len(use_formulas(network)) == 5


@pytest.mark.parametrize("kind", [ms.float32, ms.float16, ms.bfloat16])
def test_rows_of_every_type_go_to_norm_and_activation(documented, pynative, kind):
    for norm in made()[:2]:
        norm(numbers(3, 8, dtype=kind), numbers(8, dtype=kind))
    for activation in made()[2:4]:
        activation(numbers(3, 8, dtype=kind))
    assert documented == {"rms_norm": 2, "swiglu": 2}


def test_a_weight_of_another_type_takes_the_formula(documented, pynative):
    for norm in made()[:2]:
        norm(numbers(3, 8), numbers(8, dtype=ms.float16))
    assert not documented


@pytest.mark.parametrize(
    ("batch", "tokens", "kind", "places_batch", "wanted"),
    [
        (1, 5, ms.float16, 1, True),
        (2, 5, ms.bfloat16, 1, True),
        (2, 5, ms.float32, 1, False),  # the operator has no float32
        (2, 5, ms.float16, 2, False),  # every sequence has a mask of its own: perhaps not the causal one
        (10, 5, ms.float16, 1, True),  # as many heads in the batch as the rotary operator takes, 8 T
        (11, 5, ms.float16, 1, False),
        (1000, 500, ms.float16, 1, False),
    ],
)
def test_attention_is_chosen_where_it_fits(on_ascend, batch, tokens, kind, places_batch, wanted):
    cos, _, mask = places(tokens=tokens, batch=places_batch)
    x = SimpleNamespace(shape=(batch * tokens, 128), dtype=kind)
    assert CausalAttention(heads=4, head_dim=16).takes(x, cos, mask) is wanted


def test_attention_wants_heads_that_the_operator_has(on_ascend):
    sizes = [(4, 8), (4, 24), (4, 528), (257, 16)]
    assert not any(CausalAttention(heads=heads, head_dim=width).kernel_is_on for heads, width in sizes)
    assert not CausalAttention(heads=4, head_dim=16, flash=False).kernel_is_on
    assert CausalAttention(heads=256, head_dim=512).kernel_is_on


def test_shapes_that_vary_take_the_formulas(on_ascend, tmp_path):
    rows = Tensor(shape=[None, 8], dtype=ms.float32)
    _, found = graph(RmsNormWithGradient(1e-5), rows, numbers(8), tmp_path=tmp_path)
    assert found["ReduceMean"] and not OPERATORS & set(found)
    _, found = graph(SwiGLUWithGradient(), rows, tmp_path=tmp_path)
    assert found["Sigmoid"] and not OPERATORS & set(found)
    cos, sin, mask = places(tokens=5)
    rows = Tensor(shape=[None, 128], dtype=ms.float16)
    _, found = graph(Whole(heads=4, head_dim=16), rows, cos, sin, mask, tmp_path=tmp_path)
    assert not OPERATORS & set(found)


# -- how they are called


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_the_installed_mindspore(name):
    """So the calls that the documented operators accept bind to MindSpore's too."""
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (documented_operators, ops))
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in theirs.parameters.values()
    ]


def test_mindspore_infers_and_differentiates_the_calls(on_ascend, tmp_path):
    rows, weight, wide = numbers(6, 8), numbers(8), numbers(6, 16, dtype=ms.float16)
    x = numbers(10, 128, dtype=ms.float16)
    cells = {
        "RmsNorm": (Normed(), (rows, weight), (6, 8)),
        "Swiglu": (SwiGLUWithGradient(), (wide,), (6, 8)),
        "FlashAttentionScore": (Whole(heads=4, head_dim=16), (x, *places(tokens=5)), (10, 64)),
    }
    for name, (cell, inputs, shape) in cells.items():
        found, kinds = graph(cell, *inputs, tmp_path=tmp_path)
        assert kinds[name] == 1 and tuple(found.graph.output[0].tensor[0].dims) == shape, name
        assert graph(Slope(cell), *inputs, tmp_path=tmp_path)[1][name + "Grad"] == 1


@pytest.mark.parametrize("recomputed", [{}, {"recompute": True}, {"select_recompute": True}])
@pytest.mark.slow_where(lambda recomputed: "recompute" not in recomputed)
def test_a_whole_network_uses_them_forward_and_backward(on_ascend, tmp_path, recomputed):
    network = random_network(recompute_config=recomputed, num_layers=1, **HALVES).set_train()
    tokens = Tensor(TOKENS)
    _, forward = graph(network, tokens, tokens, tmp_path=tmp_path)
    assert {name: forward[name] for name in OPERATORS} == {
        "RmsNorm": 3,
        "Swiglu": 1,
        "RotaryPositionEmbedding": 2,
        "FlashAttentionScore": 1,
    }
    _, backward = graph(LossSlope(network), tokens, tokens, tmp_path=tmp_path)
    assert {name: backward[name] for name in GRADIENTS} == {name + "Grad": forward[name] for name in OPERATORS}


def test_an_exported_network_has_none(on_ascend):
    found = trace(random_network(**HALVES), [Tensor(TOKENS)])
    assert not OPERATORS & {primitive.op_type for primitive in found.primitives}


def test_the_key_of_the_configuration_decides_about_attention(on_ascend, monkeypatch):
    said = []
    monkeypatch.setattr("mindformers_glm.models.glm.layers.log_once", lambda text, **_: said.append(text))
    layer = random_network(**HALVES).transformer.encoder.layers[0]
    assert layer.self_attention.whole.kernel_is_on and layer.self_attention.may_be_whole and not said
    layer = random_network(**HALVES | {"use_flash_attention": False}).transformer.encoder.layers[0]
    assert not layer.self_attention.whole.kernel_is_on and layer.mlp.activation.kernel_is_on and not said


@pytest.mark.parametrize(
    "changes",
    [
        {"compute_dtype": "float32"},
        {"kv_channels": 8},
        {"attention_dropout": 0.1},
        {"multi_query_attention": False},
        {"pre_seq_len": 4},
    ],
)
def test_asking_in_vain_is_told(on_ascend, monkeypatch, changes):
    log.forget_told()
    said = []
    monkeypatch.setattr(log.logger, "log", lambda level, text, **_: said.append(text))
    random_network(**HALVES | changes)
    assert [text for text in said if "use_flash_attention: True has no effect here" in text]


# -- what the calls mean


def close(ours, theirs, kind):
    rel = {ms.float32: 1e-5, ms.float16: 3e-3, ms.bfloat16: 3e-2}[kind]
    ours, theirs = (value.astype(ms.float32).asnumpy() for value in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=rel * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("kind", [ms.float32, ms.float16, ms.bfloat16])
def test_norm_and_activation_mean_the_formulas(documented, pynative, kind):
    x, weight, wide = (numbers(*shape, dtype=kind) for shape in ((7, 24), (24,), (7, 48)))
    found = RmsNormWithGradient(1e-2)(x, weight), SwiGLUWithGradient()(wide)
    assert documented == {"rms_norm": 1, "swiglu": 1}
    norm, activation = RmsNorm(1e-2), SwiGLU()
    use_formulas(nn.CellList([norm, activation]))
    wanted, same = norm(x.astype(ms.float32), weight.astype(ms.float32))
    assert found[0][1] is x
    close(found[0][0], wanted, kind)
    close(found[1], activation(wide.astype(ms.float32)), kind)


SIZES = [(1, 2, 1, 1, 16), (2, 9, 4, 2, 16), (3, 33, 6, 2, 32), (1, 8, 4, 4, 48), (1, 20, 32, 2, 16)]


@pytest.mark.parametrize("kind", [ms.float16, ms.bfloat16])
@pytest.mark.parametrize(("batch", "tokens", "heads", "kv_heads", "channels"), SIZES)
@pytest.mark.slow_where(lambda kind, tokens: kind == ms.bfloat16 and tokens != 9)
def test_attention_means_the_formulas(documented, pynative, batch, tokens, heads, kv_heads, channels, kind):
    sizes = {"heads": heads, "kv_heads": kv_heads, "channels": channels}
    cos, sin, mask = places(tokens=tokens, **sizes)
    x = numbers(batch * tokens, (heads + 2 * kv_heads) * channels, dtype=kind)
    found = Whole(heads=heads, head_dim=channels)(x, cos, sin, mask)
    assert documented == {"rotary_position_embedding": 2, "flash_attention_score": 1}
    assert found.dtype == kind
    close(found, Layerwise(batch=batch, **sizes)(x.astype(ms.float32), cos, sin, mask), kind)


@pytest.mark.parametrize(("batch", "tokens", "heads", "kv_heads", "channels"), SIZES[1:3])
def test_so_do_the_gradients_of_attention(documented, pynative, batch, tokens, heads, kv_heads, channels):
    sizes = {"heads": heads, "kv_heads": kv_heads, "channels": channels}
    cos, sin, mask = places(tokens=tokens, **sizes)
    x = numbers(batch * tokens, (heads + 2 * kv_heads) * channels, dtype=ms.float16)
    slope = numbers(batch * tokens, heads * channels, seed=1)

    def gradient(cell, x):
        return ms.grad(lambda x: (cell(x, cos, sin, mask).astype(ms.float32) * slope).sum())(x)

    found = gradient(Whole(heads=heads, head_dim=channels), x)
    close(found, gradient(Layerwise(batch=batch, **sizes), x.astype(ms.float32)), ms.float16)


@pytest.mark.parametrize("recomputed", [{}, {"recompute": True}])
@pytest.mark.slow_where(lambda recomputed: not recomputed)
def test_a_network_trains_as_by_formulas(documented, pynative, recomputed):
    labels = np.where(TOKENS % 3 == 0, -100, TOKENS)
    by_operators = loss_and_gradients(random_network(recompute_config=recomputed, **HALVES).set_train(), TOKENS, labels)
    assert set(documented) == set(NAMES)
    network = random_network(**HALVES | {"compute_dtype": "float32"}).set_train()
    use_formulas(network)
    plain = loss_and_gradients(network, TOKENS, labels)
    assert by_operators[0] == pytest.approx(plain[0], rel=1e-2)
    for name, gradient in plain[1].items():
        assert np.linalg.norm(by_operators[1][name] - gradient) <= 0.03 * np.linalg.norm(gradient) + 1e-6, name
