"""Lengths and positions of a run."""

from __future__ import annotations

import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.train.plan import Position, make_plan
from mindformers_glm.train.wrapper import build_wrapper


def test_without_sinking_an_epoch_is_a_pass_over_the_data():
    plan = make_plan(batches=8, epochs=2, sink_size=4)
    assert (plan.total_steps, plan.unit, plan.sink_size) == (16, 8, 0)
    assert plan.position(0) == Position(0, 0)
    assert plan.position(11) == Position(1, 3)


@pytest.mark.parametrize(
    ("batches", "epochs", "size", "sinks", "total"),
    [(8, 2, 4, 4, 16), (10, 1, 4, 2, 8), (10, 3, 4, 7, 28), (3, 2, 4, 1, 4), (7, 3, -1, 3, 21)],
)
def test_sinking_drops_the_remainder_as_mindformers_does(batches, epochs, size, sinks, total):
    plan = make_plan(batches=batches, epochs=epochs, sink_mode=True, sink_size=size)
    assert (plan.sinks, plan.total_steps) == (sinks, total)
    assert plan.ends_unit(plan.unit)
    assert not plan.ends_unit(plan.unit + 1)


def test_a_step_takes_several_batches_and_an_epoch_whole_steps():
    plan = make_plan(batches=10, epochs=2, accumulation=3)
    assert (plan.steps_per_epoch, plan.total_steps) == (3, 6)


def test_max_steps_ends_a_run_early():
    assert make_plan(batches=10, epochs=2, max_steps=7).total_steps == 7
    assert make_plan(batches=10, epochs=2, max_steps=70).total_steps == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 2, "accumulation": 3}, "gradient_accumulation_steps: got 3. An epoch has 2 batches"),
        ({"batches": 2, "sink_mode": True, "sink_size": 9}, "runner_config.sink_size: got 9. 1 epochs of 2 steps"),
        ({"batches": 2, "sink_mode": True, "sink_size": 0}, "runner_config.sink_size: got 0. Use a number of steps"),
    ],
)
def test_a_run_without_a_step_is_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        make_plan(**arguments)
    assert message in str(caught.value)


SCALE = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 65536, "scale_factor": 2, "scale_window": 1000}


def test_wrappers_of_mindformers_are_settings():
    settings = build_wrapper({"type": "MFTrainOneStepCell", "scale_sense": SCALE, "use_clip_grad": True})
    assert (settings.loss_scale.value, settings.max_grad_norm, settings.shows_scale) == (65536, 1.0, True)
    assert build_wrapper({"type": "mf_wrapper", "scale_sense": 128}).max_grad_norm is None
    assert build_wrapper({"type": "pipeline_wrapper", "max_grad_norm": "0.5"}).max_grad_norm == 0.5
    assert build_wrapper({"type": "loss_scale_wrapper", "scale_sense": SCALE}).loss_scale.value == 65536
    for plain in (None, {"type": "wrapper"}, {"type": "TrainOneStepCell"}):
        settings = build_wrapper(plain)
        assert (settings.loss_scale.value, settings.max_grad_norm, settings.shows_scale) == (1.0, None, False)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "mf_wrapper", "max_grad_norm": 0}, "runner_wrapper.max_grad_norm: got 0."),
        ({"type": "wrapper", "sens": 2}, "runner_wrapper.sens: got 2."),
        ({"type": "mf_wrapper", "clip": 1}, "runner_wrapper.clip: got 1. Unknown key."),
        ({"type": "mf_wrapper", "scale_sense": {"type": "Dynamic"}}, "runner_wrapper.scale_sense.type: got 'Dynamic'."),
    ],
)
def test_faults_name_the_key(spec, message):
    with pytest.raises(ConfigError) as caught:
        build_wrapper(spec)
    assert message in str(caught.value)


@pytest.fixture
def warnings(monkeypatch):
    from mindformers_glm.log import logger

    found = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: found.append(message % values))
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batches": 5, "sink_mode": True, "sink_size": 4}, "1 of 5 steps are left out: sink_size 4"),
        ({"batches": 5, "epochs": 2, "sink_mode": True, "sink_size": 4}, "2 of 10 steps are left out"),
        ({"batches": 5, "accumulation": 2}, "1 of 5 batches of an epoch are left out: gradient_accumulation_steps 2"),
    ],
)
def test_what_is_left_out_is_said(warnings, arguments, words):
    make_plan(**arguments)
    assert len(warnings) == 1
    assert words in warnings[0]


def test_nothing_is_said_where_nothing_is_left_out(warnings):
    make_plan(batches=8, epochs=2, sink_mode=True, sink_size=4, accumulation=2)
    make_plan(batches=5, sink_mode=True, sink_size=-1)
    assert warnings == []


@pytest.mark.parametrize(
    ("warm_up", "total", "words"),
    [
        (10, 1, "1 step, lies inside .*10.* the rate stays at 0 and no weight changes"),
        (0, 1, "the rate stays at 0"),
        (10, 6, "6 steps, .* only rises to 0.005"),
        (10, 10, "only rises to 0.009"),
        (10, 11, None),
        (0, 2, None),
    ],
)
def test_a_run_inside_its_warm_up_is_told(warnings, warm_up, total, words):
    import re

    from mindformers_glm.optim import build_schedule
    from mindformers_glm.train.plan import warn_of_warm_up

    spec = {"type": "constant_with_warmup", "learning_rate": 0.01, "warmup_steps": warm_up}
    warn_of_warm_up(build_schedule(spec, total_steps=total), total)
    assert len(warnings) == (words is not None)
    if words:
        assert re.search(words, warnings[0])
