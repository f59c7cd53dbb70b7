"""The compiled function against MindSpore's operators, for every kind of network that it takes."""

from __future__ import annotations

from functools import cache

import mindspore as ms
import numpy as np
import pytest

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.generate import MindSporeEngine, generate
from mindformers_glm.generation.kernel_network import KernelNetwork, obstacles
from mindformers_glm.generation.network import MindSporeNetwork
from mindformers_glm.generation.paged_cache import CacheFull
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


@pytest.fixture(autouse=True)
def _operators_one_by_one(_graph_mode):
    """MindSpore's operators are the measure here, and give it without a graph; test_generation_variants has graphs."""
    ms.set_context(mode=ms.PYNATIVE_MODE)


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
        {"rotary_percent": 1.0, "add_qkv_bias": False, "tie_word_embeddings": True},
        {"post_self_attn_layernorm": True, "post_mlp_layernorm": True},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_the_same_logits_and_cache_as_the_operators(changes):
    model = network(**changes)
    assert obstacles(model) == []
    if not changes:
        ms.set_context(mode=ms.GRAPH_MODE)
    expected, cache = answers(MindSporeNetwork(model))
    kernels = KernelNetwork(model)
    found, own = answers(kernels)
    assert differ(found, expected) < 2e-4 and differ([own.lengths], [cache.lengths]) == 0
    for row, length in enumerate(cache.lengths):
        keys, values = kernels.cached(own, row)
        np.testing.assert_allclose(keys, cache.keys[:, row, :, :length], atol=1e-4)
        np.testing.assert_allclose(values, cache.values[:, row, :, :length], atol=1e-4)


@cache
def whole():
    """A network, and what the operators answer with it: the same for every build."""
    model = network()
    return model, answers(MindSporeNetwork(model))[0]


@cache
def quantized(bits):
    """A network of integers, and what the operators answer with it, and with its weights as they were."""
    model = network(ffn_hidden_size=160)
    plain, _ = answers(MindSporeNetwork(model))
    quantize_model(model, bits=bits)
    with formulas_only(model):
        return model, answers(MindSporeNetwork(model))[0], plain


@pytest.mark.parametrize("variant", here)
def test_every_build_that_this_processor_can_run(variant, monkeypatch):
    model, expected = whole()
    monkeypatch.setenv("GLM_KERNELS", variant)
    assert library.library_file().name.startswith(f"libglm_{variant}-")
    found, _ = answers(KernelNetwork(model))
    assert differ(found, expected) < 2e-4


@pytest.mark.parametrize("variant", here)
@pytest.mark.parametrize("bits", [8, 4])
def test_integer_weights(bits, variant, monkeypatch):
    """Integer arithmetic rounds activations to 8 bits: less than what quantising the weights did."""
    model, expected, plain = quantized(bits)
    monkeypatch.setenv("GLM_KERNELS", variant)
    found, _ = answers(KernelNetwork(model))
    rounding = np.std(np.concatenate([(a - b).ravel() for a, b in zip(found, expected, strict=True)]))
    quantising = np.std(np.concatenate([(a - b).ravel() for a, b in zip(expected, plain, strict=True)]))
    assert 0 < rounding < 1.5 * quantising


@pytest.mark.parametrize("bits", [8, 4])
def test_integer_weights_that_are_loaded_later_are_seen_at_the_next_prompt(bits):
    model, other = network(ffn_hidden_size=160), network(ffn_hidden_size=160)
    quantize_model(model, bits=bits)
    for layer in other.transformer.encoder.layers:
        layer.mlp.dense_4h_to_h.weight.set_data(layer.mlp.dense_4h_to_h.weight * 2)
    quantize_model(other, bits=bits)
    kernels = KernelNetwork(model)
    before, _ = answers(kernels)
    for layer, theirs in zip(model.transformer.encoder.layers, other.transformer.encoder.layers, strict=True):
        layer.mlp.dense_4h_to_h.weight.set_data(theirs.mlp.dense_4h_to_h.weight)
        layer.mlp.dense_4h_to_h.weight_scale.set_data(theirs.mlp.dense_4h_to_h.weight_scale)
    after, _ = answers(kernels)
    expected, _ = answers(KernelNetwork(other))
    assert differ(after, before) > 0.1 and differ(after, expected) == 0


@pytest.mark.parametrize("variant", here)
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 0.02), ("int8", 0.3)])
def test_a_smaller_cache(dtype, bound, variant, monkeypatch):
    """What it holds is the nearest that the type can hold, and logits of up to 6 move little."""
    monkeypatch.setenv("GLM_KERNELS", variant)
    model = network(kv_channels=20)
    exact, smaller = KernelNetwork(model), KernelNetwork(model, cache_dtype=dtype)
    expected, cache = answers(exact)
    found, own = answers(smaller)
    assert 0 < differ(found, expected) < bound
    for row in range(3):
        for one, other in zip(smaller.cached(own, row), exact.cached(cache, row), strict=True):
            step = np.abs(other) * 2**-11 if dtype == "float16" else np.abs(other).max(-1, keepdims=True) / 254
            difference, allowed = np.abs(one - other)[0], step[0] * 1.001 + 1e-6
            assert (difference <= allowed).all()  # the first layer: what it was given is the same
    assert own.nbytes < cache.nbytes * (0.51 if dtype == "float16" else 0.36)


@pytest.mark.parametrize("variant", here)
def test_a_cache_of_float16_that_attention_reads_as_whole_numbers(variant, monkeypatch):
    """Keys within 1 / 64,000 of their norm, values within 1 / 16,382 of the largest, where the CPU multiplies such."""
    monkeypatch.setenv("GLM_KERNELS", variant)
    model = network(kv_channels=64)
    exact, smaller = KernelNetwork(model), KernelNetwork(model, cache_dtype="float16")
    expected, cache = answers(exact)
    found, own = answers(smaller)
    assert 0 < differ(found, expected) < 0.02
    for row in range(3):
        both = zip(smaller.cached(own, row), exact.cached(cache, row), strict=True)
        for (one, other), of_all in zip(both, (np.linalg.norm, np.max), strict=True):
            whole = of_all(np.abs(other), axis=-1, keepdims=True) / (64_000 if of_all is np.linalg.norm else 16_382)
            allowed = np.maximum(np.abs(other) * 2**-11, whole)[0] * 1.001 + 1e-6
            assert (np.abs(one - other)[0] <= allowed).all()  # the first layer: what it was given is the same
    blocks, numbers = own.nbytes // smaller.blocks.block_bytes, 2 * 2 * 64 * 64  # layers, keys and values
    scales = 2 * 2 * 64 * 4 if variant == "avx512_vnni" else 0
    assert own.nbytes == blocks * smaller.shape[1] * (numbers * 2 + scales)
    assert cache.nbytes == blocks * smaller.shape[1] * numbers * 4


def test_an_unknown_type_of_cache_is_refused():
    with pytest.raises(ConfigError, match="^cache_dtype: got 'int4'. Use one of float32, float16, int8"):
        KernelNetwork(network(), cache_dtype="int4")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rows_that_share_their_beginning_are_rows_of_their_own(dtype):
    """Bit for bit, wherever they part: inside a block or where one ends."""
    model = network(ffn_hidden_size=160)
    quantize_model(model)  # products of floats add in another order for many tokens than for few
    kernels = KernelNetwork(model, cache_dtype=dtype)
    ids = np.random.default_rng(1).integers(0, 301, 200).astype(np.int32)

    def run(cache, row, piece):
        counts, tokens = np.zeros(cache.rows, np.int32), np.zeros((cache.rows, len(piece)), np.int32)
        counts[row], tokens[row] = len(piece), piece
        return kernels.forward(tokens, counts, cache, np.asarray([row * len(piece) + len(piece) - 1], np.int32))

    for shared in (1, 63, 64, 65, 130):
        one = kernels.new_cache(1)
        run(one, 0, ids[:150])
        rows = kernels.new_cache(3)
        used = kernels.blocks.used_blocks
        for row in range(3):
            rows.copy_row(row, one.row(0, shared), 0)
        assert kernels.blocks.used_blocks == used  # nothing was copied yet
        for row in range(3):
            found = run(rows, row, ids[10 * row : 10 * row + 40])
            alone = kernels.new_cache(1)
            run(alone, 0, ids[:shared])
            assert differ([found], [run(alone, 0, ids[10 * row : 10 * row + 40])]) == 0
    del one, rows, alone
    assert kernels.blocks.used_blocks == 0


@pytest.mark.parametrize("bits", [None, 8])
def test_pieces_of_a_prompt_and_rows_beside_it_change_nothing(bits):
    """With integer weights bit for bit; products of floats add in another order for many tokens than for few."""
    model = network(ffn_hidden_size=160)
    if bits:
        quantize_model(model, bits=bits)
    kernels, random = KernelNetwork(model), np.random.default_rng(1)
    ids = random.integers(0, 301, (3, 140)).astype(np.int32)
    whole, cache = [], kernels.new_cache(1)
    for row in ids:
        cache = kernels.new_cache(1)
        whole.append(kernels.forward(row[None], np.asarray([140]), cache, np.arange(140, dtype=np.int32)))
    for _ in range(3):
        cache, found = kernels.new_cache(3), [[], [], []]
        while (cache.lengths < 140).any():
            counts = np.minimum(random.integers(0, 30, 3), 140 - cache.lengths).astype(np.int32)
            width = max(1, counts.max())
            tokens = np.zeros((3, width), np.int32)
            for row, (begin, count) in enumerate(zip(cache.lengths, counts, strict=True)):
                tokens[row, :count] = ids[row, begin : begin + count]
            wanted = [row * width + place for row in range(3) for place in range(counts[row])]
            logits = kernels.forward(tokens, counts, cache, np.asarray(wanted, np.int32))
            for row in range(3):
                found[row].append(logits[counts[:row].sum() : counts[: row + 1].sum()])
        assert differ([np.concatenate(parts) for parts in found], whole) < (1e-9 if bits else 2e-4)


@pytest.mark.parametrize("wrong", [-1, 301, 2**31 - 1])
def test_an_id_beyond_the_vocabulary_is_refused_before_anything_is_computed(wrong):
    kernels = KernelNetwork(network())
    cache = kernels.new_cache(2)
    tokens = np.asarray([[1, 2, 3], [4, wrong, 0]], np.int32)
    with pytest.raises(GenerationError, match=f"sequence 1 holds id {wrong} and the model knows 0 to 300"):
        kernels.forward(tokens, np.asarray([3, 2], np.int32), cache, None)
    assert cache.lengths.tolist() == [0, 0]
    kernels.forward(np.where(tokens == wrong, 0, tokens), np.asarray([3, 2], np.int32), cache, None)


def test_a_full_cache_says_so_and_goes_on_when_there_is_room():
    kernels = KernelNetwork(network(), cache_tokens=128)
    one, other = kernels.new_cache(1), kernels.new_cache(1)
    many = np.zeros((1, 100), np.int32)
    kernels.forward(many, np.asarray([100]), one, None)
    assert (kernels.blocks.free_blocks, other.needed_blocks(np.asarray([1]))) == (0, 1)
    with pytest.raises(CacheFull, match="the cache is full: it may hold 128 tokens"):
        kernels.forward(many, np.asarray([1]), other, None)
    del one
    kernels.forward(many, np.asarray([100]), other, None)
    assert other.lengths.tolist() == [100]


def test_requests_that_the_cache_cannot_hold_wait():
    model, random = network(), np.random.default_rng(2)
    prompts = random.integers(0, 301, (6, 100)).tolist()
    config = GenerationConfig(max_new_tokens=40, do_sample=True, seed=3)
    free, bounded = MindSporeEngine(model), MindSporeEngine(model, cache_tokens=448)
    expected = [result.ids for result in generate(free, prompts, config)]
    assert [result.ids for result in generate(bounded, prompts, config)] == expected
    for prompt, ids in zip(prompts, expected, strict=True):  # kept prefixes are given up for requests
        ticket = bounded.submit(prompt, config.updated(seed=3), index=prompts.index(prompt), reuse_prefix=True)
        assert [result.ids for result in ticket.results()] == [ids]
    bounded.forget()
    assert bounded.network.blocks.used_blocks == 0
    with pytest.raises(GenerationError, match="8 sequences of up to 140 tokens: the cache .* holds 448 tokens"):
        bounded.submit(prompts[0], config.updated(num_return_sequences=8))


def test_threads_change_nothing(monkeypatch):
    model = network()
    expected, _ = answers(KernelNetwork(model))
    for count in (1, 3, 5):
        monkeypatch.setattr(library, "num_threads", lambda count=count: count)
        found, _ = answers(KernelNetwork(model))
        assert differ(found, expected) == 0


def test_new_weights_are_seen_at_the_next_step():
    model = network()
    kernels = KernelNetwork(model)
    before, _ = answers(kernels)
    weight = model.transformer.encoder.layers[1].mlp.dense_4h_to_h.weight
    weight.set_data(weight * 2)
    after, _ = answers(kernels)
    expected, _ = answers(MindSporeNetwork(model))
    assert differ(after, before) > 0.1 and differ(after, expected) < 2e-4


def test_what_it_cannot_compute_is_left_to_the_operators(monkeypatch):
    model = network(compute_dtype="float16")
    assert obstacles(model) == ["compute_dtype is float16"]
    assert isinstance(MindSporeEngine(model).network, MindSporeNetwork)
    plain = network()
    assert isinstance(MindSporeEngine(plain).network, KernelNetwork)
    monkeypatch.setenv("GLM_KERNELS", "off")
    assert isinstance(MindSporeEngine(plain).network, MindSporeNetwork)
