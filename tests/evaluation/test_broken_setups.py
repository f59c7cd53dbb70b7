"""Set-ups that are broken on purpose, each found by `evaluate --why`: real commands over small real networks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mindformers_glm.cli.evaluate import main
from mindformers_glm.evaluation.report import read_report
from mindformers_glm.evaluation.why import explain

pytestmark = pytest.mark.slow
LETTERS = {"A": 316, "B": 347, "C": 319, "D": 367}  # with a space before


@pytest.fixture(scope="module")
def network(golden, shared, tmp_path_factory):
    """Makes a ChatGLM3 in the official form with a tokenizer beside it, whose output layer a function has changed."""
    from safetensors.numpy import load_file, save_file

    source = golden / "hf_glm3_tiny"
    weights, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())

    def make(change=None, tokenizer="chatglm3-6b", name="THUDM/chatglm3-6b"):
        folder = tmp_path_factory.mktemp("glm3")
        own = {key: np.array(value, np.float32) for key, value in weights.items()}
        if change is not None:
            key = "transformer.output_layer.weight"
            own[key] = change(own[key])
        save_file(own, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": name, "torch_dtype": "float32"}))
        for file in (shared / "data/tokenizer" / tokenizer).iterdir():
            shutil.copy(file, folder)
        return folder

    return make


@pytest.fixture
def found(shared, tmp_path):
    """The causes that hold after an evaluation of eight questions."""

    def ask(model, *words, data=shared / "data/eval/ceval"):
        base = ["--model", str(model), "--tasks", "ceval-valid", "--subjects", "law,logic", "--limit", "8"]
        given = [*base, "--data_dir", str(data), "--output_dir", str(tmp_path / "o"), *words]
        if "--way" not in words and "--num_fewshot" not in words:
            given += ["--num_fewshot", "0"]
        assert main(given) == 0
        return [cause.name for cause in explain(*read_report(tmp_path / "o")) if cause.holds]

    return ask


def test_nothing_is_said_of_a_sound_set_up(network, found):
    assert found(network()) == []


def test_a_vocabulary_that_is_not_the_models(found):
    assert "choice ids are no single tokens" in found("glm2_tiny")


def test_a_tokenizer_that_loses_the_prefix(network, found, monkeypatch):
    from mindformers_glm.tokenizers.glm import GLMTokenizer

    monkeypatch.setattr(GLMTokenizer, "get_prefix_tokens", lambda self: [])
    assert found(network()) == ["prefix tokens missing or twice"]


def test_a_prefix_that_stands_in_the_data_too(network, found, tmp_path):
    (tmp_path / "val/Other").mkdir(parents=True)
    rows = [{"inputs_pretokenized": f"[gMASK]sop一加{n}？\nA. 1\nB. 2\nC. 3\nD. 4", "label": n % 4} for n in range(4)]
    for subject in ("law", "logic"):
        (tmp_path / f"val/Other/{subject}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    causes = found(network(), "--way", "official", data=tmp_path)
    assert "prefix tokens missing or twice" in causes


@pytest.mark.parametrize("words", [("--way", "official"), ("--tokenizer",)])
def test_the_template_of_another_family(network, found, glm2_vocab, words):
    words = (*words, glm2_vocab) if words == ("--tokenizer",) else words
    assert "template of another family" in found(network(), *words)


def test_prompts_that_do_not_fit(network, found):
    assert "prompts were cut" in found(network(), "--num_fewshot", "5", "--seq_length", "128")


def test_weights_that_say_nothing(network, found):
    assert "margins near zero" in found(network(lambda weight: weight * 0))


def test_a_model_that_takes_every_letter_for_the_first(network, found):
    def alike(weight):
        weight[list(LETTERS.values())] = weight[LETTERS["A"]]
        return weight

    assert "one letter always" in found(network(alike))


def test_answers_that_name_no_letter(network, found, monkeypatch):
    monkeypatch.setattr("mindformers_glm.evaluation.tasks.ways.Chat.max_new_tokens", 4)
    assert "no letter in the answer" in found(network(), "--way", "chat")
