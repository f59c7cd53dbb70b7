"""The compiled function against MindSpore's operators, for every kind of network that it takes."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from mindformers_glm.generation.fused import FusedNetwork, obstacles
from mindformers_glm.generation.generate import MindSporeEngine
from mindformers_glm.generation.network import MindSporeNetwork
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.ops.kernels import build, library
from mindformers_glm.ops.kernels.operators import formulas_only
from mindformers_glm.quantization import quantize_model

SHAPE = {
    "num_layers": 2,
    "padded_vocab_size": 301,
    "hidden_size": 96,
    "ffn_hidden_size": 168,
    "kv_channels": 24,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "seq_length": 256,
    "param_init_type": "float32",
    "compute_dtype": "float32",
}
ADAPTERS = "query_key_value|dense|dense_h_to_4h|dense_4h_to_h"
STEPS = ([150, 3, 0], [1, 70, 5], [1, 1, 1], [2, 0, 1])  # new tokens of three rows
here = [variant.name for variant in build.variants() if set(variant.features) <= library.features()]


def network(**changes):
    """A network with random weights of moderate size in every parameter, norms and biases too."""
    model = ChatGLM2ForConditionalGeneration(ChatGLM2Config(**{**SHAPE, **changes})).set_train(False)
    random = np.random.default_rng(3)
    for parameter in model.get_parameters():
        value = random.standard_normal(parameter.shape).astype(np.float32) * 0.15
        value += 1 if parameter.name.endswith("norm.weight") else 0
        parameter.set_data(ms.Tensor(value).astype(parameter.dtype))
    return model


def answers(network, vocabulary: int = 301):
    random, cache, found = np.random.default_rng(0), network.new_cache(3), []
    for counts in STEPS:
        width = max(counts)
        tokens = random.integers(0, vocabulary, (3, width)).astype(np.int32)
        wanted = np.asarray([row * width + i for row in range(3) for i in range(0, counts[row], 5)], np.int32)
        found.append(network.forward(tokens, np.asarray(counts, np.int32), cache, wanted))
    return found, cache


def differ(one, other) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rmsnorm": False},
        {"multi_query_attention": False, "add_bias_linear": True},
        {"apply_residual_connection_post_layernorm": True, "post_layer_norm": False},
        {"param_init_type": "float16"},
        {"param_init_type": "bfloat16", "embedding_type": "float16"},
        {"pet_config": {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "target_modules": ADAPTERS}},
        {"pet_config": {"pet_type": "ptuning2", "pre_seq_len": 70}},
        {"kv_channels": 32, "multi_query_group_num": 1, "rope_ratio": 50},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_the_same_logits_and_cache_as_the_operators(changes):
    model = network(**changes)
    assert obstacles(model) == []
    expected, cache = answers(MindSporeNetwork(model))
    found, own = answers(FusedNetwork(model))
    assert differ(found, expected) < 2e-4 and differ([own.lengths], [cache.lengths]) == 0
    for row, length in enumerate(cache.lengths):
        for name in ("keys", "values"):
            one, other = (getattr(which, name)[:, row, :, :length] for which in (own, cache))
            np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("variant", here)
def test_every_build_that_this_processor_can_run(variant, monkeypatch):
    model = network()
    expected, _ = answers(MindSporeNetwork(model))
    monkeypatch.setenv("GLM_KERNELS", variant)
    assert library.library_file().name.startswith(f"libglm_{variant}-")
    found, _ = answers(FusedNetwork(model))
    assert differ(found, expected) < 2e-4


@pytest.mark.parametrize("variant", here)
@pytest.mark.parametrize("bits", [8, 4])
def test_integer_weights(bits, variant, monkeypatch):
    """Integer arithmetic rounds activations to 8 bits; the other builds differ from the formula by float rounding."""
    model = network(ffn_hidden_size=160)
    plain, _ = answers(MindSporeNetwork(model))
    quantize_model(model, bits=bits)
    with formulas_only(model):
        expected, _ = answers(MindSporeNetwork(model))
    monkeypatch.setenv("GLM_KERNELS", variant)
    found, _ = answers(FusedNetwork(model))
    rounding = np.std(np.concatenate([(a - b).ravel() for a, b in zip(found, expected, strict=True)]))
    quantising = np.std(np.concatenate([(a - b).ravel() for a, b in zip(expected, plain, strict=True)]))
    if library.library().glm_integers_are_fast():
        assert 0 < rounding < 1.5 * quantising
    else:
        assert differ(found, expected) < 2e-4


def test_threads_change_nothing(monkeypatch):
    model = network()
    expected, _ = answers(FusedNetwork(model))
    for count in (1, 3, 5):
        monkeypatch.setattr(library, "num_threads", lambda count=count: count)
        found, _ = answers(FusedNetwork(model))
        assert differ(found, expected) == 0


def test_new_weights_are_seen_at_the_next_step():
    model = network()
    fused = FusedNetwork(model)
    before, _ = answers(fused)
    weight = model.transformer.encoder.layers[1].mlp.dense_4h_to_h.weight
    weight.set_data(weight * 2)
    after, _ = answers(fused)
    expected, _ = answers(MindSporeNetwork(model))
    assert differ(after, before) > 0.1 and differ(after, expected) < 2e-4


def test_what_it_cannot_compute_is_left_to_the_operators(monkeypatch):
    model = network(compute_dtype="float16")
    assert obstacles(model) == ["compute_dtype is float16"]
    assert isinstance(MindSporeEngine(model).network, MindSporeNetwork)
    plain = network()
    assert isinstance(MindSporeEngine(plain).network, FusedNetwork)
    monkeypatch.setenv("GLM_KERNELS", "off")
    assert isinstance(MindSporeEngine(plain).network, MindSporeNetwork)
