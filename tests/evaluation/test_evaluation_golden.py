"""Evaluation and prediction as MindFormers ran them, on its weights."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from mindformers_glm.checkpoint import load
from mindformers_glm.checkpoint.load import source
from mindformers_glm.data.batch import Batch
from mindformers_glm.data.keyword_gen import KeyWordGenDataset
from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.evaluation import ADGENMetric, PerplexityMetric, evaluate_generation, evaluate_loss, predict
from mindformers_glm.generation import GenerationConfig, engine_of
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.tokenizers import ChatGLM2Tokenizer


@pytest.fixture(scope="module")
def runs(golden):
    return golden / "mindformers_r08/runs"


@pytest.fixture(scope="module")
def tokenizer(glm2_vocab):
    return ChatGLM2Tokenizer(glm2_vocab)


def network(golden, *, seq_length: int, dtype: str):
    """MindFormers' float16 weights; computed in float32 they are ten times faster here and choose the same tokens."""
    config = ChatGLM2Config(
        num_layers=2,
        hidden_size=32,
        ffn_hidden_size=48,
        kv_channels=8,
        num_attention_heads=4,
        multi_query_group_num=2,
        seq_length=seq_length,
        param_init_type=dtype,
        compute_dtype=dtype,
        do_sample=True,
        top_k=1,
        max_decode_length=256,
    )
    model = ChatGLM2ForConditionalGeneration(config)
    load.load_into(model, source.read_weights(golden / "mindformers_r08/model_fp16/tiny_fp16.ckpt"))
    return model


@pytest.fixture(scope="module")
def model(golden):
    return network(golden, seq_length=32, dtype="float32")


@pytest.fixture(scope="module")
def long_model(golden):
    return network(golden, seq_length=96, dtype="float32")


def eval_dataset(runs, tokenizer):
    loader = {
        "type": "ADGenDataLoader",
        "dataset_dir": str(runs / "eval_adgen_8.json"),
        "phase": "eval",
        "version": 2,
        "shuffle": False,
        "origin_columns": ["content", "summary"],
    }
    return KeyWordGenDataset(
        data_loader=loader, tokenizer=tokenizer, max_source_length=96, max_target_length=96, batch_size=4
    )


def test_predictions_are_those_of_mindformers(runs, model, tokenizer, tmp_path):
    recorded = json.loads((runs / "predict.json").read_text(encoding="utf-8"))
    compared = 0
    for run in recorded["runs"]:
        arguments = run["args"]
        end = next((i for i, word in enumerate(arguments) if i and word.startswith("--")), len(arguments))
        texts = arguments[1:end]
        if run["rc"] or texts == ["in.txt"]:
            continue
        size = 2 if "--predict_batch_size" in arguments else 1
        file = tmp_path / "text_generation_result.txt"
        given = texts[0] if len(texts) == 1 else texts
        predict(model, tokenizer, given, batch_size=size, result_file=file, unescape=len(texts) == 1)
        assert file.read_text(encoding="utf-8") == run["text_generation_result.txt"], arguments
        compared += 1
    assert compared == 7


def test_a_file_of_prompts(runs, model, tokenizer, tmp_path):
    recorded = json.loads((runs / "predict.json").read_text(encoding="utf-8"))
    expected = next(run for run in recorded["runs"] if "in.txt" in run["args"])["text_generation_result.txt"]
    file = tmp_path / "in.txt"
    file.write_text(recorded["input_file_in_txt"], encoding="utf-8")
    found = predict(model, tokenizer, str(file))
    assert len(found) == 3  # MindFormers answers the blank line too
    for result in found:
        assert str(result) in expected


def test_rest_of_a_batch_and_wrong_sizes(model, tokenizer):
    found = predict(model, tokenizer, ["a", "b", "c"], batch_size=2, max_new_tokens=2)
    assert [len(batch["text_generation_text"]) for batch in found] == [2, 1]
    with pytest.raises(ConfigError, match="predict_batch_size"):
        predict(model, tokenizer, "a", batch_size=0)
    with pytest.raises(GenerationError, match="prompt 1 has .* seq_length is 32"):
        predict(model, tokenizer, ["a", "很长的句子" * 20])
    with pytest.raises(GenerationError, match="Did you mean 'max_length'"):
        predict(model, tokenizer, "a", max_lenght=3)


def check_evaluation(runs, tokenizer, model, folder, *, same: int, tolerance: float):
    recorded = json.loads((runs / "eval.json").read_text(encoding="utf-8"))
    file = folder / "predictions.jsonl"
    config = GenerationConfig.from_model(model.config)
    found = evaluate_generation(
        engine_of(model), tokenizer, eval_dataset(runs, tokenizer), ADGENMetric(), config, predictions=file
    )
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["label"] for row in rows] == [pair["label"] for pair in recorded["pairs"]]
    assert [row["line"] for row in rows] == list(range(1, 9))
    assert found.num_samples == 8 and found.num_tokens == 207 + 202
    equal = [row["prediction"] == pair["pred"] for row, pair in zip(rows, recorded["pairs"], strict=True)]
    assert sum(equal) >= same
    assert found.scores == pytest.approx(recorded["final_4_decimals"], abs=tolerance)


def test_evaluation_is_that_of_mindformers(runs, tokenizer, long_model, tmp_path, caplog):
    """Five of eight random-weight texts of 50 tokens survive float32 instead of float16; labels and counts all do."""
    logging.getLogger("mindformers_glm").propagate = True
    with caplog.at_level(logging.INFO):
        check_evaluation(runs, tokenizer, long_model, tmp_path, same=5, tolerance=0.5)
    assert "Step[2/2], cost time" in caplog.text and "remaining time: 0:00:00" in caplog.text
    assert "Evaluate Over!" in caplog.text and "pred is" not in caplog.text


@pytest.mark.slow
def test_evaluation_in_float16(runs, tokenizer, golden, tmp_path):
    """Six of eight: MindFormers 0.8 scales queries by the layer number in float16, which rounds differently."""
    model = network(golden, seq_length=96, dtype="float16")
    check_evaluation(runs, tokenizer, model, tmp_path, same=6, tolerance=0.05)


class Rows:
    """A dataset of given batches."""

    def __init__(self, *batches):
        self.all = [Batch(*(np.asarray(column) for column in batch)) for batch in batches]

    def __len__(self):
        return len(self.all)

    def batches(self, epoch, start=0):
        return iter(self.all[start:])


def test_a_prompt_that_does_not_fit_names_its_line(model, tokenizer):
    rows = Rows((np.ones((2, 40), int), np.ones((2, 5), int), [7, 8]))
    with pytest.raises(GenerationError, match="line 7 of the evaluation data: prompt 0 has 40 tokens"):
        evaluate_generation(engine_of(model), tokenizer, rows, ADGENMetric(), GenerationConfig(max_new_tokens=1))


def test_rows_that_fill_up_a_batch_do_not_count(model, tokenizer):
    batch = ([[5, 6, 0], [7, 0, 0]], [[64790, 64792, 33467], [5, 6, 0]], [3, 0])
    metric = ADGENMetric()
    found = evaluate_generation(
        engine_of(model), tokenizer, Rows(batch), metric, GenerationConfig(max_new_tokens=2), log_samples=True
    )
    assert found.num_samples == metric.num_pairs == 1


def test_loss_and_perplexity(model):
    from mindspore import Tensor

    random = np.random.default_rng(0)
    batches = []
    for _ in range(2):
        ids = random.integers(3, 60000, (2, 16)).astype(np.int32)
        batches.append((ids, np.where(random.random((2, 16)) < 0.3, -100, ids).astype(np.int32), [1, 2]))
    model.set_train(True)
    found = evaluate_loss(model, Rows(*batches), PerplexityMetric())
    assert model.training
    model.set_train(False)
    losses = [float(model(Tensor(ids), Tensor(labels)).asnumpy()) for ids, labels, _ in batches]
    assert found.scores["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert found.scores["PPL"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert found.num_tokens == sum((labels != -100).sum() for _, labels, _ in batches)
