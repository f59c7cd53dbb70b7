"""Figures of generated texts against sacrebleu itself and by hand, in tasks of one's own and as metrics of a YAML."""

from __future__ import annotations

import math
import sys

import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.text_metrics import TEXT_METRICS, chrf_of, exact_match, f1, sacrebleu_of
from mindformers_glm.registry import METRICS

PAIRS = [
    ("the cat sat on the mat today", "the cat sat on the mat"),
    ("a dog barks at the moon", "the dog barked at the moon"),
]
HAN = [("这条黑色的裤子很好看", "黑色的裤子很好看"), ("简约的上衣", "简约风格的上衣")]


def test_corpus_figures_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = zip(*PAIRS, strict=True)
    assert sacrebleu_of(texts, references) == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)
    assert chrf_of(texts, references) == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score)
    texts, references = zip(*HAN, strict=True)
    chinese = sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score
    assert sacrebleu_of(texts, references) == pytest.approx(chinese)
    assert chinese > 2 * sacrebleu_of(texts, references, "13a")


@pytest.mark.parametrize(
    ("one", "two", "match", "overlap"),
    [("a b", "a b ", 1, 1), ("a b", "b c", 0, 0.5), ("黑色裤", "黑裤", 0, 0.8), ("", "", 1, 1), ("a", "", 0, 0)],
)
def test_exact_match_and_f1(one, two, match, overlap):
    assert (exact_match(one, two), f1(one, two)) == (match, pytest.approx(overlap))


@pytest.mark.parametrize("name", ["ChrfMetric", "SacreBleuMetric", "ExactMatchMetric"])
def test_a_metric_of_a_yaml(name, capsys):
    pytest.importorskip("sacrebleu")
    metric = METRICS.build({"type": name}, "metric")
    assert all(map(math.isnan, metric.eval().values()))
    for prediction, label in PAIRS:
        metric.update([prediction], [label])
    found = metric.eval()
    wanted = {name: TEXT_METRICS[name] for name in found}
    for figure, value in found.items():
        corpus = wanted[figure].corpus
        rows = [wanted[figure].row(*pair) for pair in PAIRS]
        expected = corpus(*zip(*PAIRS, strict=True)) if corpus else sum(rows) / len(rows)
        assert value == pytest.approx(expected)
        assert f"{figure}: {value:.4f}" in capsys.readouterr().out or len(found) > 1
    with pytest.raises(ValueError, match="1 predictions and 2 labels"):
        metric.update(["a"], ["a", "b"])


def test_without_sacrebleu_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ConfigError, match=r"mindformers_glm\[metrics\]"):
        METRICS.build({"type": "ChrfMetric"}, "metric")
    assert f1("a", "a") == 1.0
