"""The training script of glm2_tiny: what is learned of a line, batches, learning rate, going on after a stop."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
ASSETS = ROOT / "mindformers_glm/assets/glm2_tiny"

from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors  # noqa: E402
from mindformers_glm.tokenizers.chatglm import ChatGLM2Tokenizer  # noqa: E402
from tools.glm2_tiny import make_corpus, train  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    return ChatGLM2Tokenizer(str(ASSETS / "tokenizer.model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    make_corpus.write_lines(path, make_corpus.corpus(400, 0))
    return path


def test_the_last_answer_and_its_end_are_learned(tokenizer):
    sample = train.encode({"turns": [["你好", "你好！"], ["再见", "下次见！"]]}, tokenizer)
    learned = [label for label in sample.labels if label != train.IGNORED]
    assert tokenizer.decode(learned[:-1]).strip() == "下次见！"
    assert learned[-1] == tokenizer.eos_token_id
    prompt = tokenizer.build_prompt("再见", [("你好", "你好！")])
    assert sample.ids[: len(sample.ids) - len(learned) + 1] == tokenizer.encode(prompt)


def test_labels_are_the_next_ids(tokenizer):
    for row in ({"text": "今天天气很好。"}, {"turns": [["你是谁", "我是 GLM2-Tiny。"]]}):
        ids, labels = train.encode(row, tokenizer)
        kept = [i for i, label in enumerate(labels) if label != train.IGNORED]
        assert [labels[i] for i in kept[:-1]] == [ids[i + 1] for i in kept[:-1]]


def test_batches_have_known_lengths_and_lose_nothing(tokenizer, corpus):
    taken = list(itertools.islice(train.batches(train.samples(corpus, tokenizer), 1000), 12))
    assert {ids.shape[1] for ids, _ in taken} <= set(train.LENGTHS)
    assert all(ids.shape[0] == 1000 // ids.shape[1] for ids, _ in taken)
    for ids, labels in taken:
        last = (labels != train.IGNORED).cumsum(1).argmax(1)  # where the end of the text is predicted
        assert (labels[np.arange(len(labels)), last] == tokenizer.eos_token_id).all()
        assert (ids[np.arange(len(ids)), np.minimum(last + 1, ids.shape[1] - 1)][last + 1 < ids.shape[1]] == 0).all()


def test_the_learning_rate_rises_and_falls():
    rates = [train.rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, corpus, monkeypatch):
    small = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 32, "kv_channels": 8, "num_attention_heads": 4}
    monkeypatch.setattr(train, "SHAPE", {**train.SHAPE, **small})
    monkeypatch.setattr(train, "LENGTHS", (64,))
    found = []
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        assets = tmp_path / name / "assets"
        assets.mkdir(parents=True)
        (assets / "tokenizer.model").write_bytes((ASSETS / "tokenizer.model").read_bytes())
        for stop in stops:
            monkeypatch.setattr(train, "rate", lambda step, steps, peak: 1e-3)
            given = {"corpus": str(corpus), "assets": str(assets), "work": str(tmp_path / name), "init": None}
            train.run(argparse.Namespace(**given, steps=stop, tokens=256, peak=1e-3, save_steps=2, seed=0))
        weights = open_safetensors(assets / "model.safetensors")
        found.append({key: weights.read_bits(key) for key in weights.entries})
    assert set(found[0]) == set(found[1])
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0])
