"""Tokens and log-likelihoods of the official models and of MindFormers, through the real network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm import runtime
from mindformers_glm.checkpoint import load
from mindformers_glm.checkpoint.load import source
from mindformers_glm.errors import GenerationError
from mindformers_glm.generation import GenerationConfig, MindSporeEngine, generate
from mindformers_glm.generation.sampling import log_softmax
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration

R08 = {
    "num_layers": 2,
    "padded_vocab_size": 65024,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "kv_channels": 8,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
}


@pytest.fixture(params=["glm2", "glm3"])
def official(request, glm2, glm3):
    return {"glm2": glm2, "glm3": glm3}[request.param]


def r08_model(golden, kind: str, *, seq_length: int = 32, **more):
    dtype = {"fp32": "float32", "fp16": "float16"}[kind]
    config = ChatGLM2Config(**R08, seq_length=seq_length, param_init_type=dtype, compute_dtype=dtype, **more)
    model = ChatGLM2ForConditionalGeneration(config)
    load.load_into(model, source.read_weights(golden / f"mindformers_r08/model_{kind}/tiny_{kind}.ckpt"))
    return model


@pytest.fixture(scope="module")
def r08(golden):
    recorded = json.loads((golden / "mindformers_r08/generation.json").read_text(encoding="utf-8"))
    return r08_model(golden, "fp32"), recorded


def test_greedy_tokens_of_the_official_model(official):
    config = GenerationConfig(max_new_tokens=24)
    together = generate(official.engine, official.prompts, config)
    for row, (prompt, result) in enumerate(zip(official.prompts, together, strict=True)):
        assert prompt + result.ids == official.expected[f"greedy_{row}"].tolist()
    alone = generate(official.engine, official.prompts[1:2], config.updated(use_past=False))
    assert alone[0].ids == together[1].ids


def test_log_likelihoods_of_the_official_model(official):
    ids, expected = official.expected["train_ids"][0].tolist(), official.expected["loglik"]
    context = len(official.prompts[0])
    (score,) = official.engine.score(ids[:context], [ids[context : context + len(expected)]])
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("use_past", [True, False])
def test_greedy_tokens_of_mindformers(r08, use_past):
    model, recorded = r08
    expected = next(run for run in recorded["runs"] if run["dtype"] == "fp32")["output_ids"]
    prompts = recorded["prompt_ids"]
    given = {"do_sample": False, "max_length": 32, "use_past": use_past}
    assert [row.tolist() for row in model.generate(prompts, **given)] == expected
    assert [model.generate(prompt, **given)[0].tolist() for prompt in prompts] == expected
    padded = np.zeros((4, 32), np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    rows = model.generate(padded, **given)
    assert [row.tolist() for row in rows] == expected and {row.dtype for row in rows} == {np.dtype(np.int32)}


def test_other_settings_of_mindformers(r08):
    model, recorded = r08
    for run in recorded["other_settings_fp32_no_past"]:
        if not run["kwargs"].get("do_sample"):  # its random numbers are not ours
            rows = model.generate(recorded["prompt_ids"], **run["kwargs"])
            assert [row.tolist() for row in rows] == run["output_ids"], run["kwargs"]


@pytest.mark.slow
def test_greedy_tokens_of_mindformers_in_float16(golden, r08):
    recorded = r08[1]
    rows = r08_model(golden, "fp16").generate(recorded["prompt_ids"], do_sample=False, max_length=32)
    assert [row.tolist() for row in rows] == next(r for r in recorded["runs"] if r["dtype"] == "fp16")["output_ids"]


def test_a_prompt_that_does_not_fit(r08):
    with pytest.raises(GenerationError, match="prompt 0 has 40 tokens and the model's seq_length is 32"):
        r08[0].generate([5] * 40)


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_mixtures_chunks_and_prefixes_change_nothing(glm2):
    """Random requests together and in pieces, against each one alone without a cache."""
    random = np.random.default_rng(7)
    prompts = [random.integers(3, 65000, size).tolist() for size in random.integers(1, 60, 6)]
    new = [int(size) for size in random.integers(1, 12, 6)]
    configs = [GenerationConfig(max_new_tokens=size, output_logprobs=True) for size in new]
    plain = [
        generate(glm2.engine, [prompt], config.updated(use_past=False))[0]
        for prompt, config in zip(prompts, configs, strict=True)
    ]
    pieces = MindSporeEngine(glm2.model, chunk=16, max_num_seqs=4)
    for engine in (glm2.engine, pieces):
        tickets = [engine.submit(prompt, config) for prompt, config in zip(prompts, configs, strict=True)]
        for ticket, expected in zip(tickets, plain, strict=True):
            (result,) = ticket.results()
            assert result.ids == expected.ids
            np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-4)
    for begin in (10, 20, 30):  # a chat that grows
        prompt = [*prompts[0], *prompts[1], *prompts[2], *prompts[3]][:begin]
        (kept,) = pieces.submit(prompt, configs[0], reuse_prefix=True).results()
        (fresh,) = generate(glm2.engine, [prompt], configs[0])
        assert kept.ids == fresh.ids
    pieces.close()


def test_nothing_is_compiled_again_for_new_lengths(glm2, kernels):
    random = np.random.default_rng(1)
    generate(glm2.engine, [[5, 6, 7]], GenerationConfig(max_new_tokens=2))
    compiled = glm2.engine.network.compilations
    tickets = [
        glm2.engine.submit(
            random.integers(3, 65000, random.integers(1, 150)).tolist(),
            GenerationConfig(max_new_tokens=int(random.integers(1, 4))),
        )
        for _ in range(50)
    ]
    for ticket in tickets:
        ticket.results()
    assert glm2.engine.network.compilations == compiled == (0 if kernels == "auto" else 3)


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_training_in_between_is_noticed(glm2):
    """A kept prefix is not used with other weights."""
    prompt, config = glm2.prompts[0], GenerationConfig(max_new_tokens=3)
    first = glm2.engine.submit(prompt, config, reuse_prefix=True).results()[0]
    parameter = glm2.model.transformer.encoder.layers[0].mlp.dense_4h_to_h.weight
    before = parameter.asnumpy().copy()
    parameter.set_data(parameter + 0.5)
    again = glm2.engine.submit(prompt, config, reuse_prefix=True).results()[0]
    plain = generate(glm2.engine, [prompt], config.updated(use_past=False))[0]
    parameter.set_data(type(parameter)(before, name=parameter.name))
    assert again.ids == plain.ids != first.ids
    assert generate(glm2.engine, [prompt], config)[0].ids == first.ids


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_repetition_penalty_spares_padding(glm2):
    """A padded row is penalised like the same row without padding."""
    prompt = glm2.prompts[0]
    padded = np.zeros((2, 64), np.int32)
    padded[0, : len(prompt)], padded[1, :3] = prompt, prompt[:3]
    given = {"do_sample": False, "max_new_tokens": 4, "repetition_penalty": 1.4}
    assert glm2.model.generate(padded, **given)[0].tolist() == glm2.model.generate(prompt, **given)[0].tolist()


def test_logprobs_are_those_of_the_network(glm2):
    from mindspore import Tensor

    prompt = glm2.prompts[0]
    (result,) = generate(glm2.engine, [prompt], GenerationConfig(max_new_tokens=4, output_logprobs=True))
    ids = np.asarray([[*prompt, *result.ids]], np.int32)
    logprobs = log_softmax(glm2.model(Tensor(ids)).asnumpy()[0])
    expected = [logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(result.ids)]
    np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)


@pytest.mark.slow_where(lambda kernels: kernels == "auto")  # the kernels know no modes
def test_pynative_mode_generates_the_same(glm2):
    runtime.set_up({"mode": 1, "device_target": "CPU"})
    engine = MindSporeEngine(glm2.model)
    (result,) = generate(engine, glm2.prompts[:1], GenerationConfig(max_new_tokens=3))
    engine.close()
    assert result.ids == glm2.reply(0)[:3]
