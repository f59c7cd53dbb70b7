"""Counters that follow what somebody else counts."""

from __future__ import annotations

from mindformers_glm.serving.http.metrics import Metrics

NAME = "vllm:prefix_cache_hits_total"


class Source:
    """Somebody who counts."""


def total(metrics: Metrics) -> int:
    line = next(line for line in metrics.text([]).splitlines() if line.startswith(f"{NAME}{{"))
    return int(line.rpartition(" ")[2])


def test_a_counter_never_falls_when_a_source_goes():
    metrics, first, second = Metrics(), Source(), Source()
    metrics.follow(NAME, first, 5, model_name="x")
    metrics.follow(NAME, second, 7, model_name="x")
    metrics.follow(NAME, first, 6, model_name="x")
    assert total(metrics) == 13
    del first
    metrics.follow(NAME, second, 9, model_name="x")
    assert total(metrics) == 15
