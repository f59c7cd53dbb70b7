"""The road without MindSpore gives the very numbers of the road with it: same weights, same kernels, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from tiny_networks import random_network, tiny_config

from mindformers_glm import AutoModel
from mindformers_glm.assembly.configuration import is_whole
from mindformers_glm.assembly.engine import held_engine, load_engine
from mindformers_glm.assembly.held import HeldNetwork
from mindformers_glm.assembly.held_files import load_held
from mindformers_glm.assembly.network import empty_network, load_network
from mindformers_glm.assembly.request import ModelRequest
from mindformers_glm.assembly.whole_layers import layers_of
from mindformers_glm.assembly.whole_numbers import put_whole_numbers
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.generation import GenerationConfig, MindSporeEngine
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.generation.network import MindSporeNetwork

pytestmark = pytest.mark.usefixtures("_operators_one_by_one")
LORA = {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 8, "target_modules": "query_key_value|dense_4h_to_h"}
FORMS = {
    "plain": {},
    "bfloat16": {"param_init_type": "bfloat16", "embedding_type": "bfloat16"},
    "float16": {"param_init_type": "float16", "embedding_type": "float16"},
    "LayerNorm": {"rmsnorm": False, "add_bias_linear": True},
    "heads apart": {"multi_query_attention": False},
    "norm in the residual": {"apply_residual_connection_post_layernorm": True, "post_layer_norm": False},
    "GLM-Edge": {"rotary_percent": 1.0, "add_qkv_bias": False, "tie_word_embeddings": True},
    "GLM-4-0414": {"post_self_attn_layernorm": True, "post_mlp_layernorm": True},
    "32k": {"rope_ratio": 16, "rope_method": "linear"},
    "LoRA": {"pet_config": LORA},
    "DoRA": {"pet_config": {**LORA, "use_dora": True, "param_init_type": "bfloat16"}},
    "prefix": {"pet_config": {"pet_type": "ptuning2", "pre_seq_len": 5}},
}
INTEGERS = {
    "int8": {"quantization_bit": 8},
    "int4": {"quantization_bit": 4, "quantization_group_size": 16},
    "int4 of rows": {"quantization_bit": 4, "quantization_group_size": 0},
    "int8 and embedding": {"quantization_bit": 8, "quantization_embedding_bits": 8},
    "tied int4": {"quantization_bit": 4, "tie_word_embeddings": True, "quantization_group_size": 16},
    "int4 and LoRA": {"quantization_bit": 4, "quantization_group_size": 16, "pet_config": LORA},
    "w8a8-token": {"quantization_scheme": "w8a8-token"},
}
WIDE = {"ffn_hidden_size": 64}  # what groups of 16 and 32 divide


@pytest.fixture
def _operators_one_by_one():
    """No graph is the subject here."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


def asked(model, tokenizer: str, **changes) -> ModelRequest:
    return ModelRequest(str(model), tokenizer=tokenizer, changes=changes)


def logits(network) -> np.ndarray:
    """Of a prompt of two rows, and of one token more."""
    cache, tokens = network.new_cache(2), np.random.default_rng(0).integers(0, 101, (2, 9)).astype(np.int32)
    counts = np.array([9, 4], np.int32)
    first = network.forward(tokens, counts, cache, np.array([8, 9, 12], np.int32))
    return np.concatenate((first, network.forward(tokens[:, :1], np.ones(2, np.int32), cache, np.arange(2))))


def arrays(model) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy() for parameter in model.get_parameters()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_floats(form):
    model = random_network(**FORMS[form])
    held = HeldNetwork(model.config)
    held.load(arrays(model))
    assert held.missing() == []
    np.testing.assert_array_equal(logits(KernelNetwork(held.weights())), logits(KernelNetwork(model)))


@pytest.mark.parametrize("form", INTEGERS)
def test_every_form_of_integers(form):
    asked = INTEGERS[form]
    floats = {key: value for key, value in asked.items() if not key.startswith("quantization")}
    weights, config = arrays(random_network(**WIDE, **floats)), tiny_config(**WIDE, **asked)
    model = empty_network(config)
    put_whole_numbers(model, config, weights, "none")
    load_into(model, weights)
    names = [name.removesuffix(".weight") for name in weights if ".layers." in name and weights[name].ndim == 2]
    whole = layers_of(config, weights, "none", names) if is_whole(config) else None
    held = HeldNetwork(config, whole=whole)
    held.load(weights)
    np.testing.assert_array_equal(logits(KernelNetwork(held.weights())), logits(KernelNetwork(model)))
    if not is_whole(config):  # integers as they were saved
        again = HeldNetwork(config)
        again.load(arrays(model))
        np.testing.assert_array_equal(logits(KernelNetwork(again.weights())), logits(KernelNetwork(model)))


def answer(engine, *, adapter: int = 0) -> tuple[list[int], list[float]]:
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, output_logprobs=True)
    found = engine.submit([5, 17, 40, 3], settings, adapter=adapter).results()[0]
    return found.ids, found.logprobs


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        ("hf_glm2_tiny", {}),
        ("hf_glm2_tiny", {"quantization_bit": 4, "quantization_group_size": 16}),
        ("hf_glm3_tiny", {"quantization_bit": 8, "quantization_group_size": 16}),
        ("glm4/chat_hf", {}),
        ("glm4/edge_1_5b", {}),
        ("glm4/glm4_9b_0414", {}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value.replace("/", "-"),
)
def test_a_folder_of_the_official_models(golden, place, changes):
    known = {"param_init_type": "float32", "compute_dtype": "float32", "seq_length": 64, **changes}
    held = load_held(golden / place, **known)
    model = AutoModel.from_pretrained(golden / place, **known)
    assert answer(held_engine(held, {})) == answer(MindSporeEngine(model))


def test_weights_of_16_bits_are_computed_in_float32(golden, glm2_vocab):
    folder = str(golden / "hf_glm2_tiny")
    loaded = load_engine(asked(folder, glm2_vocab, seq_length=64, param_init_type="float16"))
    assert loaded.held is not None and loaded.held.slots["transformer.output_layer.weight"].dtype == "float16"
    model = AutoModel.from_pretrained(folder, seq_length=64, param_init_type="float16", compute_dtype="float32")
    assert answer(loaded.engine) == answer(MindSporeEngine(model))


@pytest.mark.parametrize("kind", ["peft", "lora.ckpt", "prefix.ckpt", "ptuning"])
def test_an_adapter_on_top_and_beside(base, glm2_vocab, adapters, kind):
    known = {"param_init_type": "float32", "compute_dtype": "float32", "seq_length": 64}
    place, alpha = str(adapters / kind), {"lora_alpha": 32} if kind == "lora.ckpt" else {}
    plain = load_engine(asked(base, glm2_vocab, **known))
    on_top = load_engine(dataclasses.replace(asked(base, glm2_vocab, **known), adapter=place, **alpha))
    assert on_top.held is not None
    expected = answer(MindSporeEngine(load_network(str(base), adapter=place, **alpha, **known)))
    assert answer(on_top.engine) == expected != answer(plain.engine)
    engine, number = plain.adapted(place, **alpha)
    assert (engine is plain.engine) == ("lora" in kind or kind == "peft") == bool(number)
    ids, logprobs = answer(engine, adapter=number)
    assert ids == expected[0]
    np.testing.assert_allclose(logprobs, expected[1], atol=1e-5)


def test_weights_stay_in_their_file(base):
    """Nothing is copied of what lies there as the kernels read it."""
    source, held = (
        read_weights(base),
        load_held(base, param_init_type="float16", embedding_type="float16", seq_length=64),
    )
    mapped = {name for name, tensor in held.slots.items() if not tensor.asnumpy().flags.owndata}
    assert mapped == {name for name in held.slots if source.dtype(name) == held.slots[name].dtype}
    assert len(mapped) > len(held.slots) // 2
    assert not any(held.slots[name].asnumpy().flags.writeable for name in mapped)


def test_what_does_not_fit_is_named(base, glm2_vocab, tmp_path):
    shutil.copytree(base, tmp_path / "model", ignore=shutil.ignore_patterns("bin", "*.npz"))
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(
        json.dumps({**config, "ffn_hidden_size": 2 * config["ffn_hidden_size"]})
    )
    with pytest.raises(CheckpointError, match="of wrong shape"):
        load_engine(asked(tmp_path / "model", glm2_vocab))
    with pytest.raises(ConfigError, match="cache_dtype"):
        load_engine(asked(base, glm2_vocab), options={"cache_dtype": "int3"})
    with pytest.raises(ConfigError, match="backend"):
        load_engine(asked(base, glm2_vocab), options={"backend": "cuda"})


def test_what_the_kernels_cannot_compute_takes_mindspore_and_says_so(base, glm2_vocab, monkeypatch):
    told = []
    monkeypatch.setattr("mindformers_glm.assembly.engine.log_once", told.append)
    loaded = load_engine(asked(base, glm2_vocab, layernorm_compute_type="float16", seq_length=64))
    assert loaded.held is None and isinstance(loaded.engine.network, MindSporeNetwork)
    assert any("layernorm_compute_type is float16" in line for line in told)


def test_the_model_of_mindspore_is_there_when_it_is_asked_for(base, glm2_vocab):
    loaded = load_engine(asked(base, glm2_vocab, param_init_type="float32", seq_length=64))
    assert answer(MindSporeEngine(loaded.network)) == answer(loaded.engine)
