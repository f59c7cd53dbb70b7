"""Searches and processors against transformers, over one small random network that both use."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_glm.generation.cache import CacheShape, KVCache
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate
from mindformers_glm.generation.sampling import distribution

pytestmark = pytest.mark.oracle
EOS, VOCABULARY = 3, 60


class TorchNetwork:
    """A transformers model as the engine's network, without a cache: requests must say use_past=False."""

    vocab_size, max_length = VOCABULARY, 128

    def __init__(self, model, torch):
        self.model, self.torch = model, torch

    def new_cache(self, rows):
        return KVCache(CacheShape(1, 1, 1), rows)

    def version(self):
        return 0

    def forward(self, tokens, counts, cache, wanted):
        assert not cache.lengths.any()
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor(tokens.astype(np.int64))).logits
        return logits.reshape(-1, VOCABULARY).numpy()[wanted]


@pytest.fixture(scope="module")
def pair():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=16, n_layer=2, n_head=2, initializer_range=0.6,
        bos_token_id=1, eos_token_id=EOS,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    engine = Engine(TorchNetwork(model, torch))
    yield model, engine, torch
    engine.close()


def theirs(model, torch, prompt, **settings):
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    rows = [row[len(prompt) :] for row in out.tolist()]
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


PROMPTS = [np.random.default_rng(seed).integers(4, VOCABULARY, 3 + seed % 5).tolist() for seed in range(12)]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("num_beams", [2, 4])
def test_beam_search(pair, num_beams, early_stopping, length_penalty):
    model, engine, torch = pair
    settings = {
        "num_beams": num_beams,
        "early_stopping": early_stopping,
        "length_penalty": length_penalty,
        "max_new_tokens": 14,
        "num_return_sequences": num_beams,
    }
    for prompt in PROMPTS:
        ours = generate(engine, [prompt], GenerationConfig(**settings, eos_token_id=EOS, use_past=False))
        assert [result.ids for result in ours] == theirs(model, torch, prompt, do_sample=False, **settings), prompt


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 10},
        {"bad_words_ids": [[5], [7, 9], [11]]},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "num_beams": 3},
    ],
)
def test_processors(pair, settings):
    model, engine, torch = pair
    for prompt in PROMPTS:
        config = GenerationConfig(**settings, max_new_tokens=14, eos_token_id=EOS, use_past=False)
        (ours,) = generate(engine, [prompt], config)
        assert [ours.ids] == theirs(model, torch, prompt, do_sample=False, max_new_tokens=14, **settings), prompt


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 5, 100])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_filters(pair, temperature, top_k, top_p):
    from transformers.generation import logits_process as them

    torch = pair[2]
    warpers = [them.TemperatureLogitsWarper(temperature)]
    warpers += [them.TopKLogitsWarper(top_k)] if top_k else []
    warpers += [them.TopPLogitsWarper(top_p)] if top_p < 1 else []
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32) * 2
        scores = torch.tensor(logits)[None]
        for warper in warpers:
            scores = warper(None, scores)
        expected = torch.softmax(scores.double(), -1)[0].numpy()
        ids, probabilities = distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        dense = np.zeros(VOCABULARY)
        dense[ids] = probabilities
        np.testing.assert_allclose(dense, expected, atol=1e-6)
