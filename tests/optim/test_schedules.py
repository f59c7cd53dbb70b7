"""Schedules against the values of MindFormers r0.8 (golden/mindformers_r08/optim/lr_schedules.json) and MindSpore."""

from __future__ import annotations

import json
import math

import mindspore as ms
import numpy as np
import pytest

import mindformers_glm.optim  # noqa: F401 - registers the schedules
from mindformers_glm.errors import ConfigError
from mindformers_glm.optim import build_schedule
from mindformers_glm.registry import LR_SCHEDULES

POLYNOMIAL = {"type": "polynomial", "learning_rate": 5e-5, "lr_end": 1e-6, "warmup_steps": 0, "total_steps": 20}


def bits(values) -> np.ndarray:
    return np.asarray(values, np.float32).view(np.int32).astype(np.int64)


def golden_cases(golden):
    cases = json.loads((golden / "mindformers_r08/optim/lr_schedules.json").read_text())["schedules"]
    return [case for case in cases if "error" not in case and case["config"].get("total_steps") != -1]


def test_inside_their_range_schedules_equal_mindformers(golden):
    for case in golden_cases(golden):
        config, schedule = case["config"], build_schedule(case["config"])
        last = config.get("total_steps", case["steps"][-1])
        wanted = np.array([int(text, 16) for text in case["float32_hex"]], np.uint32).view(np.int32).astype(np.int64)
        found = bits([schedule(step) for step in case["steps"]])
        apart = np.abs(found - wanted)[: last + 1]
        # MindSpore 2.0's power is not exact: a few values of the polynomial differ in the last bit
        assert apart.max() <= (1 if "olynomial" in case["class"] else 0), config
        assert np.count_nonzero(apart) <= 2, config


def test_beyond_its_range_a_rate_stays_at_its_end(golden):
    for case in golden_cases(golden):
        schedule = build_schedule(case["config"])
        end = case["config"].get("total_steps", 23) + 1
        later = [schedule(step) for step in range(end, end + 2000, 77)]
        low = 0.0 if "Restarts" in case["class"] else case["config"].get("lr_end", 0.0)
        assert all(math.isfinite(rate) and rate >= np.float32(low) for rate in later)
        if case["config"].get("warmup_steps", 0) <= end:
            assert len(set(later)) == 1


def test_first_step_has_rate_zero_unless_told_otherwise():
    assert build_schedule(POLYNOMIAL)(0) == 0
    assert build_schedule(POLYNOMIAL | {"warmup_lr_init": 1e-6})(0) == np.float32(1e-6)


def test_trainer_fills_in_the_lengths():
    spec = POLYNOMIAL | {"total_steps": -1}
    assert build_schedule(spec, total_steps=40).total_steps == 40
    assert build_schedule(spec | {"total_steps": 30}, total_steps=40).total_steps == 30
    assert build_schedule(spec | {"warmup_ratio": 0.25, "warmup_epochs": 3}, total_steps=40).warmup_steps == 10
    assert build_schedule(spec | {"warmup_epochs": 2}, total_steps=40, steps_per_epoch=7).warmup_steps == 14


def test_numbers_and_callables_are_schedules_too():
    assert build_schedule("1e-3")(17) == np.float32(1e-3)
    assert build_schedule(lambda step: step / 2)(3) == 1.5
    assert build_schedule({"type": "LearningRateWiseLayer", "base_lr": POLYNOMIAL, "lr_scale": 0.5})(1) == np.float32(
        2.5e-5
    )


def test_text_numbers_from_yaml_work():
    spec = {name: str(value) for name, value in POLYNOMIAL.items()}
    assert [build_schedule(spec)(k) for k in range(20)] == [build_schedule(POLYNOMIAL)(k) for k in range(20)]


def test_classes_answer_to_name_and_alias():
    for alias, name in {
        "constant_with_warmup": "ConstantWarmUpLR",
        "linear": "LinearWithWarmUpLR",
        "cosine": "CosineWithWarmUpLR",
        "cosine_with_restarts": "CosineWithRestartsAndWarmUpLR",
        "polynomial": "PolynomialWithWarmUpLR",
    }.items():
        assert LR_SCHEDULES.get(alias) is LR_SCHEDULES.get(name)
    assert {"LearningRateWiseLayer", "WarmUpDecayLR"} <= set(LR_SCHEDULES.names())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_end": 6e-5}, "lr_schedule.lr_end: got 6e-05. It must not be above learning_rate (5e-05)."),
        ({"total_steps": -1}, "lr_schedule.total_steps: got -1. The length of the run is unknown"),
        ({"warmup_ratio": 1.5}, "lr_schedule.warmup_ratio: got 1.5. It is a share"),
        ({"warmup_epochs": 1}, "lr_schedule.warmup_epochs: got 1. The length of an epoch is unknown"),
        ({"learning_rate": "fast"}, "lr_schedule.learning_rate: got 'fast'."),
        ({"warmup_step": 1}, "lr_schedule.warmup_step: got 1. Unknown key. Did you mean 'warmup_steps'?"),
        ({"type": "polynomal"}, "lr_schedule.type: got 'polynomal'. No learning-rate schedule has this name."),
    ],
)
def test_faults_name_the_key(change, message):
    with pytest.raises(ConfigError) as caught:
        build_schedule(POLYNOMIAL | change)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ExponentialDecayLR", {"learning_rate": 0.1, "decay_rate": 0.9, "decay_steps": 4}),
        ("ExponentialDecayLR", {"learning_rate": 0.1, "decay_rate": 0.9, "decay_steps": 4, "is_stair": True}),
        ("NaturalExpDecayLR", {"learning_rate": 0.1, "decay_rate": 0.09, "decay_steps": 4}),
        ("NaturalExpDecayLR", {"learning_rate": 0.1, "decay_rate": 0.09, "decay_steps": 4, "is_stair": True}),
        ("InverseDecayLR", {"learning_rate": 0.1, "decay_rate": 0.5, "decay_steps": 4}),
        ("InverseDecayLR", {"learning_rate": 0.1, "decay_rate": 0.5, "decay_steps": 4, "is_stair": True}),
        ("CosineDecayLR", {"min_lr": 0.01, "max_lr": 0.1, "decay_steps": 6}),
        ("PolynomialDecayLR", {"learning_rate": 0.1, "end_learning_rate": 0.01, "decay_steps": 4, "power": 0.5}),
        (
            "PolynomialDecayLR",
            {
                "learning_rate": 0.1,
                "end_learning_rate": 0.01,
                "decay_steps": 4,
                "power": 0.5,
                "update_decay_steps": True,
            },
        ),
        ("WarmUpLR", {"learning_rate": 0.1, "warmup_steps": 3}),
    ],
)
def test_mindspore_schedules_equal_its_cells(name, arguments):
    cell, schedule = getattr(ms.nn, name)(**arguments), build_schedule({"type": name, **arguments})
    for step in range(1, 11):
        assert schedule(step) == pytest.approx(float(cell(ms.Tensor(step, ms.int32)).asnumpy()), rel=2e-6)
