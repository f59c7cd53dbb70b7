"""Metrics: figures of MindFormers first, then the edges."""

from __future__ import annotations

import json
import logging
import math

import pytest

from mindformers_glm.evaluation.metrics import ADGENMetric, EmF1Metric, PerplexityMetric, score_pair
from mindformers_glm.registry import METRICS


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads((golden / "mindformers_r08/metric/adgen_metric.json").read_text(encoding="utf-8"))


def test_every_pair_has_the_scores_of_mindformers(recorded):
    for pair in recorded["pairs"]:
        metric = ADGENMetric()
        metric.update([pair["prediction"]], [pair["label"]])
        if pair["skipped"]:
            assert metric.scores["bleu-4"] == [] and metric.num_blank_predictions == 1
        else:
            assert {name: values[0] for name, values in metric.scores.items()} == pair["scores"], pair["kind"]


def test_means_and_printed_block_are_those_of_mindformers(recorded, capsys):
    metric, pairs = ADGENMetric(), recorded["pairs"]
    for begin in range(0, len(pairs), 8):
        batch = pairs[begin : begin + 8]
        metric.update([pair["prediction"] for pair in batch], [pair["label"] for pair in batch])
    assert metric.eval() == recorded["final"]
    assert capsys.readouterr().out == recorded["printed_by_eval"]
    assert metric.eval() == pytest.approx(recorded["final"])  # asking again changes nothing


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        ("这件衬衫的款式非常的宽松", "这件衬衫的款式非常的宽松，利落的线条", [80.0, 75.0, 77.7778, 60.6531]),
        ("宽松的衬衫", "这件衬衫的款式非常的宽松，利落的线条", [50.0, 0.0, 28.5714, 2.3728]),
        ("好", "好", [100.0, 0.0, 100.0, 35.3553]),
        ("abc", "这件衬衫", [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_documented_pairs(prediction, label, expected):
    assert list(score_pair(prediction, label).values()) == expected


def test_edges_are_counted_and_do_not_stop(caplog, capsys):
    metric = ADGENMetric()
    assert all(math.isnan(value) for value in metric.eval().values())
    metric.update(["好", "好", " ", ""], ["", " \n", "好", "好"])
    metric.update(["好"], ["好"])
    logging.getLogger("mindformers_glm").propagate = True
    with caplog.at_level(logging.WARNING):
        assert metric.eval()["rouge-1"] == 100.0
    assert "2 of 5 predictions are blank and are left out" in caplog.text
    assert "2 of 5 labels are blank" in caplog.text
    with pytest.raises(ValueError, match="2 predictions and 1 labels"):
        metric.update(["a", "b"], ["a"])


def test_blank_predictions_can_count_as_nothing():
    metric = ADGENMetric(blank_scores_zero=True)
    metric.update(["好", ""], ["好", "好"])
    assert metric.eval()["rouge-1"] == 50.0


def test_a_tuple_whose_first_item_is_the_list(recorded):
    metric = ADGENMetric()
    metric.update((["好"],), ["好"])
    assert metric.eval()["rouge-l"] == 100.0


def test_perplexity():
    metric = PerplexityMetric()
    assert math.isnan(metric.eval()["loss"])
    for loss in (1.0, 2.0):
        metric.update(loss)
    assert metric.eval() == {"loss": 1.5, "PPL": pytest.approx(math.exp(1.5))}
    metric.clear()
    metric.update(1e9)
    assert metric.eval()["PPL"] > 1e300


@pytest.mark.parametrize(
    ("prediction", "label", "f1", "exact"),
    [
        ("北京大学", "北京大学", 100, 100),
        ("  北京，大学。\n其余不算", "北京大学", 100, 100),
        ("在北京", "北京大学", 400 / 7, 0),
        ("Beijing University", "beijing university", 100, 100),
        ("上海", "北京", 0, 0),
        ("", "北京", 0, 0),
        ("ABCDEF甲乙", "甲乙", 80, 0),
    ],
)
def test_em_f1(prediction, label, f1, exact):
    metric = EmF1Metric()
    metric.update([prediction], [label])
    assert metric.eval() == {"F1": pytest.approx(f1), "Em": exact}


def test_metrics_are_known_by_name():
    for name in ("ADGENMetric", "PerplexityMetric", "EmF1Metric"):
        assert METRICS.build({"type": name}, "metric").eval
