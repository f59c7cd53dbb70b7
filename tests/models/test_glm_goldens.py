"""The network against the official code (golden/hf_glm2_tiny, hf_glm3_tiny), in both modes."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import hf_network, loss_and_gradients, shift

from mindformers_glm.models.glm.cached import Cached
from mindformers_glm.models.glm.weights import rename


@pytest.fixture(params=["hf_glm2_tiny", "hf_glm3_tiny"])
def folder(request, golden):
    return golden / request.param


def cases(folder):
    expected = np.load(folder / "expected.npz")
    for i, case in enumerate(json.loads((folder / "meta.json").read_text())["cases"]):
        named = {key: expected[f"{key}_{i}"] for key in ("logits_last", "logits_slice", "hidden", "greedy")}
        yield np.array([case["input_ids"]], np.int32), named


def test_logits_equal_the_official_ones(folder, mode):
    model = hf_network(folder)
    for input_ids, expected in list(cases(folder))[: None if mode == "pynative" else 1]:
        logits = model(Tensor(input_ids)).asnumpy()[0]
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits[-1], expected["logits_last"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(logits[:, ::257], expected["logits_slice"], atol=1e-4, rtol=0)


@pytest.mark.slow_where(lambda mode: mode == "graph")
def test_hidden_states_of_every_layer_equal_the_official_ones(folder, mode):
    model = hf_network(folder)
    for input_ids, expected in list(cases(folder))[:2]:
        states = model.hidden_states(Tensor(input_ids))
        assert len(states) == model.config.num_layers + 1
        for state, official in zip(states, expected["hidden"], strict=True):
            np.testing.assert_allclose(state.asnumpy()[0], official, atol=1e-4, rtol=0)


@pytest.mark.slow_where(lambda folder: folder == "hf_glm2_tiny")  # in test_generation_golden, with the engine's graphs
def test_greedy_tokens_through_the_cache_equal_the_official_ones(folder):
    model = hf_network(folder)
    decode = CachedDecoding(model, slots=96)
    for input_ids, expected in cases(folder):
        prompt, official = input_ids.shape[1], expected["greedy"].tolist()
        tokens = decode.greedy(input_ids[0].tolist(), len(official) - prompt)
        assert tokens == official
    assert len(decode.cell.compile_cache) == 1


class CachedDecoding:
    """Greedy decoding with one graph for prompts of all lengths and for the single token."""

    def __init__(self, model, *, slots: int) -> None:
        config = model.config
        self.shape = (config.num_layers, 1, config.num_kv_heads, slots, config.kv_channels)
        self.cell = Cached(model)
        ids, one = Tensor(shape=[1, None], dtype=ms.int32), Tensor(shape=[1], dtype=ms.int32)
        stores = [Tensor(shape=list(self.shape), dtype=ms.float32)] * 2
        self.cell.set_inputs(ids, ids, one, *stores, one)

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        tokens, cache = list(tokens), [np.zeros(self.shape, np.float32) for _ in range(2)]
        fed, past = tokens, 0
        for _ in range(count):
            positions = np.arange(past, past + len(fed), dtype=np.int32)[None]
            logits, *new = self.cell(
                Tensor([fed], ms.int32),
                Tensor(positions),
                Tensor([past], ms.int32),
                *(Tensor(store) for store in cache),
                Tensor([len(fed) - 1], ms.int32),
            )
            for store, rows in zip(cache, new, strict=True):
                store[..., past : past + len(fed), :] = rows.asnumpy()
            past += len(fed)
            fed = [int(logits.asnumpy()[0].argmax())]
            tokens += fed
        return tokens


@pytest.mark.slow_where(lambda folder, mode: mode == "graph" and folder == "hf_glm2_tiny")
def test_loss_and_gradients_equal_the_official_ones(folder, mode):
    model, expected = hf_network(folder), np.load(folder / "expected.npz")
    loss, gradients = loss_and_gradients(model, expected["train_ids"], shift(expected["train_labels_unshifted"]))
    assert loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    norms = json.loads((folder / "meta.json").read_text())["grad_norm"]
    for official, norm in norms.items():
        gradient = gradients[rename(official, "hf", "ours")]
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-3)
        if f"grad:{official}" in expected:
            difference = np.linalg.norm(gradient - expected[f"grad:{official}"])
            assert difference < 1e-3 * np.linalg.norm(expected[f"grad:{official}"]), official


@pytest.mark.parametrize(
    "changes, key",
    [
        ({}, "plain"),
        ({"rope_ratio": 50}, "base_50"),
        ({"rope_ratio": 16, "rope_method": "linear"}, "interpolate_16"),
    ],
)
@pytest.mark.slow_where(lambda mode, key: mode == "graph" and key != "interpolate_16")
def test_both_long_context_rotary_forms(golden, changes, key, mode):
    expected = np.load(golden / "hf_glm3_tiny/rope_variants.npz")
    model = hf_network(golden / "hf_glm3_tiny", **{"rope_method": "base", **changes})
    logits = model(Tensor(expected["input_ids"][None])).asnumpy()[0]
    np.testing.assert_allclose(logits[::37, ::257], expected[f"{key}_logits"], atol=1e-4, rtol=0)
