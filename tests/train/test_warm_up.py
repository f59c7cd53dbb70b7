"""A run inside its warm-up is said."""

from __future__ import annotations

import pytest

from mindformers_glm import log
from mindformers_glm.optim import build_schedule
from mindformers_glm.train.warm_up import warn_of_warm_up

SPEC = {"type": "polynomial", "learning_rate": 1e-3, "lr_end": 1e-6}


def said(caplog, monkeypatch, steps, **spec) -> str:
    monkeypatch.setattr(log.logger, "propagate", True)
    with caplog.at_level("WARNING", logger=log.logger.name):
        warn_of_warm_up(build_schedule({**SPEC, **spec}, total_steps=steps), steps)
    return " ".join(caplog.messages)


@pytest.mark.parametrize(
    ("steps", "spec", "words"),
    [
        (1, {"warmup_steps": 10}, ["1 step lies inside the warm-up of 10", "no weight will change"]),
        (5, {"warmup_steps": 10}, ["5 steps lie", "lr_schedule.warmup_steps", "rises to 0.0004 only"]),
        (2, {"warmup_steps": 99999999}, ["2 steps lie inside the warm-up of 99999999"]),
        (4, {"warmup_ratio": 1.0}, ["4 steps lie"]),
    ],
)
def test_a_run_inside_its_warm_up_is_warned_of(caplog, monkeypatch, steps, spec, words):
    text = said(caplog, monkeypatch, steps, **spec)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(("steps", "spec"), [(11, {"warmup_steps": 10}), (20, {}), (10, {"warmup_ratio": 0.1})])
def test_a_run_beyond_its_warm_up_is_not(caplog, monkeypatch, steps, spec):
    assert said(caplog, monkeypatch, steps, **spec) == ""


def test_a_constant_rate_has_none(caplog, monkeypatch):
    monkeypatch.setattr(log.logger, "propagate", True)
    warn_of_warm_up(build_schedule(1e-3), 1)
    assert caplog.messages == []
