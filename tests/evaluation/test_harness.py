"""What lm-evaluation-harness asks, answered as it does; the harness itself is in the last test alone."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.evaluation.harness import Harness


@pytest.fixture(scope="module")
def tiny():
    from mindformers_glm.assembly.model import load_model
    from mindformers_glm.assembly.request import ModelRequest
    from mindformers_glm.generation.generate import engine_of

    loaded = load_model(ModelRequest("glm2_tiny"))
    return Harness(engine_of(loaded.network), loaded.tokenizer, batch_size=3, max_gen_toks=12)


def test_log_likelihoods_are_those_of_the_harness(golden, glm2_vocab):
    from mindformers_glm import AutoModel
    from mindformers_glm.generation.generate import engine_of
    from mindformers_glm.registry import TOKENIZERS

    folder = golden / "evaluation"
    tokenizer = TOKENIZERS.build({"type": "ChatGLM2Tokenizer", "vocab_file": glm2_vocab}, "tokenizer")
    float32 = {"compute_dtype": "float32", "param_init_type": "float32"}
    engine = engine_of(AutoModel.from_pretrained(str(folder / "model_glm2"), **float32))
    rows = [json.loads(line) for line in (folder / "edge_loglikelihood.jsonl").read_text().split("\n") if line]
    for length in (4096, 64):
        mine = [row for row in rows if row["form"] == "glm" and row["max_length"] == length]
        harness = Harness(engine, tokenizer, max_length=length)
        found = harness.loglikelihoods([(row["context"], row["continuation"]) for row in mine])
        np.testing.assert_allclose([one[0] for one in found], [row["loglikelihood"] for row in mine], atol=2e-4)
        assert [one[1] for one in found] == [row["is_greedy"] for row in mine]
    texts = json.loads((folder / "perplexity.json").read_text())["texts"]
    sums = Harness(engine, tokenizer).rolling([row["text"] for row in texts])
    np.testing.assert_allclose(sums, [row["glm_prefix_loglikelihood"] for row in texts], rtol=1e-6)


def test_answers_come_in_the_order_of_the_requests(tiny):
    pairs = [("你好", "吗"), ("类型#裤", "版型"), ("你好", "世界很大"), ("", "衣"), ("类型#裤", "风格显瘦")]
    together = tiny.loglikelihoods(pairs)
    alone = [tiny.loglikelihoods([pair])[0] for pair in pairs]
    np.testing.assert_allclose([one[0] for one in together], [one[0] for one in alone], atol=1e-4)
    assert [one[1] for one in together] == [one[1] for one in alone]


def test_a_long_text_is_scored_in_windows(tiny):
    text = "类型#裤*版型#宽松*风格#性感" * 40
    short = Harness(tiny.engine, tiny.tokenizer, max_length=32)
    whole, parts = tiny.rolling([text, ""]), short.rolling([text])
    assert whole[1] == 0.0
    assert whole[0] < 0 and parts[0] < 0
    assert whole[0] != pytest.approx(parts[0], abs=1e-3)  # less is seen


def test_text_ends_before_what_ends_it(tiny):
    context = "类型#裤*版型#宽松*风格#性感*图案#线条*裤型#阔腿裤"
    (free,) = tiny.texts([(context, {"max_gen_toks": 12})])
    assert len(free) > 4
    ends = free[2:4]
    cut, whole, one = tiny.texts(
        [
            (context, {"until": [ends], "max_gen_toks": 12}),
            (context, {"until": ["不会出现的话"], "max_gen_toks": 12, "temperature": 0.7}),
            (context, {"until": ends, "max_new_tokens": 12, "do_sample": False}),
        ]
    )
    assert cut == one == free[: free.index(ends)]
    assert whole == free  # do_sample is not said: greedy, whatever the temperature


def test_a_conversation_stands_for_its_exact_ids(tiny):
    messages = [{"role": "user", "content": "你好"}]
    text = tiny.chat(messages)
    ids = tiny.renderer.prompt(messages)
    assert tiny.prompt_ids(text, 4) == list(ids)
    assert tiny.prompt_ids(text + "答", 4)[: len(ids)] == list(ids)
    before, after = tiny.pair_ids(text, " A")
    assert before == list(ids)
    assert after
    assert isinstance(tiny.texts([(text, {"max_gen_toks": 4})])[0], str)


def test_what_cannot_be_asked_is_told(tiny):
    with pytest.raises(GenerationError, match="has no token of its own"):
        tiny.loglikelihoods([("你好", "")])
    with pytest.raises(GenerationError, match="new tokens and the model's seq_length"):
        tiny.texts([("你好", {"max_gen_toks": 1 << 20})])
    with pytest.raises(GenerationError, match="temprature"):
        tiny.texts([("你好", {"do_sample": True, "temprature": 1.0})])


def test_without_the_harness_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "mindformers_glm.evaluation.lm_eval_adapter", raising=False)
    from mindformers_glm.cli.lm_eval import main

    with pytest.raises(ConfigError, match=r"pip install 'mindformers_glm\[lm-eval\]'"):
        main(["--tasks", "ceval-valid"])


def test_the_harness_runs_a_task_with_our_model(tmp_path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: mindformers_glm[lm-eval]")
    from mindformers_glm.evaluation import lm_eval_adapter

    rows = [{"q": "你好", "choices": ["吗", "世界"], "label": 0}, {"q": "类型#裤", "choices": ["版", "天"], "label": 1}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False))
    common = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.json'}\ntest_split: test\n"
    )
    (tmp_path / "tiny_choice.yaml").write_text(
        f"task: tiny_choice\n{common}output_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: '{{label}}'\n"
    )
    (tmp_path / "tiny_text.yaml").write_text(
        f"task: tiny_text\n{common}output_type: generate_until\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: '{{{{q}}}}'\n"
        "generation_kwargs:\n  until: ['\\n']\n  max_gen_toks: 6\nmetric_list:\n  - metric: exact_match\n"
    )
    (tmp_path / "tiny_ppl.yaml").write_text(
        f"task: tiny_ppl\n{common}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{q}}}}'\n"
        "metric_list:\n  - metric: word_perplexity\n"
    )
    words = ["--model_args", "pretrained=glm2_tiny", "--batch_size", "2", "--tasks", "tiny_choice,tiny_text,tiny_ppl"]
    words += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--apply_chat_template"]
    assert lm_eval_adapter.main([*words, "--log_samples"]) == 0
    (results,) = (tmp_path / "out").rglob("results_*.json")
    told = json.loads(results.read_text())
    assert set(told["results"]) == {"tiny_choice", "tiny_text", "tiny_ppl"}
    assert told["config"]["model"] == "mindformers_glm"
    assert told["results"]["tiny_choice"]["acc,none"] in (0.0, 0.5, 1.0)
    assert told["results"]["tiny_ppl"]["word_perplexity,none"] > 1
