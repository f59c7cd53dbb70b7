"""Every scheme: what it stores and computes, by name in a network, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_networks
from mindspore import Tensor

from mindformers_glm import runtime
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.cli import quantize
from mindformers_glm.errors import ConfigError
from mindformers_glm.generation import MindSporeEngine
from mindformers_glm.generation.kernel_network import obstacles
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.quantization import quantize_model
from mindformers_glm.quantization.interface import Inputs, scheme_names, scheme_of

NAMES = scheme_names()
SHAPE = {"hidden_size": 64, "kv_channels": 16, "ffn_hidden_size": 96}
SAME_CELLS = ("int8-row", "official-int4", "official-int8", "w8a8-sparse")  # computed as int8, int4 and w8a8 are
WORST = {4: 0.25, 8: 0.02}  # relative error of a product


def group_of(name: str) -> int:
    return 32 if 32 in scheme_of(name).group_sizes else 0


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.set_up({})


def test_the_table_names_those_that_the_documents_name():
    wanted = {"int4", "int8", "int8-row", "official-int4", "official-int8", "gptq", "w8a8", "w8a8-sparse", "w8a8-token"}
    assert set(NAMES) == wanted
    for name in NAMES:
        scheme = scheme_of(name)
        assert scheme.name == name and name in scheme.about() and scheme.stores and scheme.computes


@pytest.mark.parametrize("name", NAMES)
def test_a_product_is_near_that_of_floats(name):
    random, scheme = np.random.default_rng(0), scheme_of(name)
    weight, x = random.normal(size=(40, 128)).astype(np.float32), random.normal(size=(9, 128)).astype(np.float32)
    weight[3] = 0
    layer = scheme.quantise(weight, group_size=scheme.group(None), inputs=Inputs(float(x.min()), float(x.max())))
    found = scheme.dequantise(layer, 128)
    limit = WORST[4 if "sparse" in name else scheme.bits]
    assert found.shape == weight.shape and not found[3].any()
    assert np.linalg.norm(found - weight) < limit * np.linalg.norm(weight)
    exact = x @ weight.T
    assert 0 < np.linalg.norm(scheme.matmul(x, layer) - exact) < 1.5 * limit * np.linalg.norm(exact)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow_where(lambda name: name in SAME_CELLS)
def test_a_network_of_it_computes_the_same_by_kernels_and_in_a_graph(name):
    plain = tiny_networks.random_network(**SHAPE)
    ids = np.arange(3, 15, dtype=np.int32)[None]
    exact = plain(Tensor(ids)).asnumpy()[0]
    quantize_model(plain, scheme=name, group_size=group_of(name), inputs=lambda _: Inputs(-8.0, 8.0))
    assert plain.config.quantization_scheme == name and obstacles(plain) == []
    network = MindSporeEngine(plain).network
    wanted = np.arange(12, dtype=np.int32)
    found = network.forward(ids, np.array([12], np.int32), network.new_cache(1), wanted)
    graph = plain(Tensor(ids)).asnumpy()[0]
    assert 0 < np.abs(found - exact).mean() < (1.2 if "sparse" in name else 0.6) * exact.std()
    assert np.abs(found - graph).mean() < (0.02 if plain.config.quantization_bit else 1e-4) * exact.std()


@pytest.mark.parametrize("name", [name for name in NAMES if scheme_of(name).network_keys()["quantization_bit"]])
def test_floats_are_loaded_by_the_rule_of_the_scheme(name):
    plain = tiny_networks.random_network(**SHAPE)
    weights = {one.name: one.asnumpy() for one in plain.get_parameters()}
    keys = scheme_of(name).network_keys(group_of(name))
    loaded = ChatGLM2ForConditionalGeneration(tiny_networks.tiny_config(**SHAPE, **keys))
    load_into(loaded, weights)
    scheme = scheme_of(name)
    path = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"
    made = {one.name: one.asnumpy() for one in loaded.get_parameters()}
    expected = scheme.quantise(weights[path], group_size=loaded.config.quantization_group_size)
    assert np.array_equal(made[path], expected.weight) and np.array_equal(made[path + "_scale"], expected.scale)


def test_head_and_embedding_have_bits_of_their_own():
    small = tiny_networks.random_network(**SHAPE)
    ids = np.arange(3, 15, dtype=np.int32)[None]
    exact = small(Tensor(ids)).asnumpy()[0]
    report = quantize_model(small, scheme="int4", head_bits=4, embedding_bits=4)
    bits = {layer.path.rpartition(".")[2]: layer.bits for layer in report.layers}
    assert bits["output_layer"] == bits["embedding_table"] == bits["dense"] == 4
    network = MindSporeEngine(small).network
    wanted = np.arange(12, dtype=np.int32)
    found = network.forward(ids, np.array([12], np.int32), network.new_cache(1), wanted)
    assert np.abs(found - small(Tensor(ids)).asnumpy()[0]).mean() < 0.02 * exact.std()
    plain = tiny_networks.random_network(**SHAPE)
    report = quantize_model(plain, scheme="int4", head_bits=0)
    assert "output_layer" not in {layer.path.rpartition(".")[2] for layer in report.layers}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"quantization_scheme": "int5"}, "quantization_scheme: got 'int5'.*No quantisation scheme has this name"),
        ({"quantization_scheme": "gptq", "quantization_group_size": 16}, "group_size: got 16.*128 or 32 or 64"),
        (
            {"quantization_scheme": "int8-row", "quantization_group_size": 64},
            "got 64.*int8-row has one scale",
        ),
        (
            {"quantization_scheme": "official-int4", "quantization_group_size": 32},
            "got 32.*for a whole row",
        ),
        ({"quantization_scheme": "w8a8-token", "quantization_group_size": 32}, "group_size: got 32.*leave it out"),
        ({"quantization_scheme": "int4", "quantization_bit": 8}, "quantization_bit: got 8.*has 4 bits"),
    ],
)
def test_what_does_not_fit_is_named(keys, told):
    with pytest.raises(ConfigError, match=told):
        tiny_networks.tiny_config(**SHAPE, **keys)


def test_w8a8_without_rows_says_what_to_do():
    with pytest.raises(ConfigError, match="inputs must have been seen.*quantize --scheme w8a8"):
        quantize_model(tiny_networks.random_network(**SHAPE), scheme="w8a8")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--smooth", "0.5"], "--smooth"),
        (["--float_layers_id", "1"], "--float_layers_id"),
        (["--propose"], "--propose"),
        (["--ceval", "folder"], "--ceval"),
    ],
)
def test_an_option_without_what_it_acts_on_is_refused(tmp_path, words, key):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        quantize.main(["--checkpoint", "glm2_tiny", "--output_path", str(tmp_path / "out"), *words])


def test_a_slash_at_the_end_of_the_output_is_no_name(tmp_path, monkeypatch):
    """Work, attempts and the gate's report lie beside the output, not in it, where they would take its place."""
    asked = []
    monkeypatch.setattr("mindformers_glm.quantization.job.Job", lambda given: asked.append(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quantize.main(["--checkpoint", "glm2_tiny", "--gate", "texts", "--output_path", f"{tmp_path}/out/"])
    assert asked[0].output == f"{tmp_path}/out"
