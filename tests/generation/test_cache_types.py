"""What a cache of float16 or int8 costs: official outputs, and perplexity of glm2_tiny."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm import AutoModel, AutoTokenizer
from mindformers_glm.checkpoint import load, source
from mindformers_glm.errors import ConfigError
from mindformers_glm.generation import MindSporeEngine
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.ops.kernels import library

pytestmark = pytest.mark.skipif(library.library() is None, reason="the kernels are not built")


@pytest.fixture(scope="module", params=["hf_glm2_tiny", "hf_glm3_tiny"])
def official(golden, request):
    """An official model, its prompts and what it answered."""
    folder = golden / request.param
    config = ChatGLM2Config.from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model = ChatGLM2ForConditionalGeneration(config).set_train(False)
    load.load_into(model, source.read_weights(folder / "model.safetensors"))
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return model, [case["input_ids"] for case in meta["cases"]], np.load(folder / "expected.npz")


def logits_along(model, ids: list[int], prompt: int, cache_dtype: str, *, step: int) -> np.ndarray:
    """Logits that choose each token after the prompt, `step` tokens at a time."""
    network = MindSporeEngine(model, cache_dtype=cache_dtype).network
    cache, found = network.new_cache(1), []
    for begin in range(0, len(ids) - 1, step):
        piece = ids[begin : min(begin + step, len(ids) - 1)]
        wanted = np.arange(len(piece), dtype=np.int32)
        found.append(network.forward(np.asarray([piece], np.int32), np.asarray([len(piece)]), cache, wanted))
    return np.concatenate(found)[prompt - 1 :]


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 1e-5), ("float16", 1e-3), ("int8", 2e-2)])
def test_the_official_models_tokens(official, dtype, noise):
    """These networks are untrained: where the best choice leads by more than the type can move it, it stays."""
    model, prompts, expected = official
    for row, prompt in enumerate(prompts):
        ids = expected[f"greedy_{row}"].tolist()
        exact = logits_along(model, ids, len(prompt), "float32", step=len(ids))
        for step in (1, 7):
            found = logits_along(model, ids, len(prompt), dtype, step=step)
            assert np.abs(found - exact).max() < noise * max(1, np.abs(exact).max())
            second, first = np.sort(exact, -1)[:, -2:].T
            sure = first - second > 4 * noise
            assert (exact.argmax(-1) == found.argmax(-1))[sure].all()


def perplexity(engine, tokenizer, rows) -> float:
    total, count = 0.0, 0
    for row in rows:
        prompt = tokenizer(tokenizer.build_prompt(row["content"]))["input_ids"]
        answer = tokenizer(row["summary"], add_special_tokens=False)["input_ids"]
        (score,) = engine.score(prompt, [answer[: engine.max_length - len(prompt)]])
        total, count = total - score.logprobs.sum(), count + len(score.logprobs)
    return float(np.exp(total / count))


def test_perplexity_stays(shared):
    lines = (shared / "data/advertisegen/dev.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:30]]
    tokenizer, model = AutoTokenizer.from_pretrained("glm2_tiny"), AutoModel.from_pretrained("glm2_tiny")
    exact = perplexity(MindSporeEngine(model, cache_dtype="float32"), tokenizer, rows)
    for dtype, bound in (("float16", 1e-3), ("int8", 5e-3)):
        found = perplexity(MindSporeEngine(model, cache_dtype=dtype), tokenizer, rows)
        assert found != exact and abs(found / exact - 1) < bound


def test_only_the_kernels_have_such_a_cache(monkeypatch):
    model = AutoModel.from_pretrained("glm2_tiny")
    monkeypatch.setenv("GLM_KERNELS", "off")
    for options in ({"cache_dtype": "int8"}, {"cache_tokens": 640}):
        with pytest.raises(ConfigError, match="Only the kernels have such a cache, and they cannot run this"):
            MindSporeEngine(model, **options)
