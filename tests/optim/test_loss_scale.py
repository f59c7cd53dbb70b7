"""Loss scales against MindSpore's update cells and a plain model of the adaptive one."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindformers_glm.errors import ConfigError
from mindformers_glm.optim import build_loss_scale
from mindformers_glm.registry import SCALE_SENSES

DYNAMIC = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 16, "scale_factor": 2, "scale_window": 3}


def overflows(seed, count=80, share=0.2):
    return np.random.default_rng(seed).random(count) < share


@pytest.mark.parametrize("window", [1, 3, 10])
def test_dynamic_scale_equals_mindspores_cell(window):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    cell = nn.DynamicLossScaleUpdateCell(16, 2, window)
    value, ours = Parameter(Tensor(16.0, ms.float32)), build_loss_scale(DYNAMIC | {"scale_window": window})
    for overflow in overflows(window):
        cell(value, Tensor(bool(overflow)))
        ours.update(bool(overflow))
        assert ours.value == float(value.asnumpy())
    ms.set_context(mode=ms.GRAPH_MODE)


def test_dynamic_scale_stays_at_one():
    scale = build_loss_scale(DYNAMIC)
    for _ in range(9):
        scale.update(True)
    assert scale.value == 1.0


def test_adaptive_window_climbs_after_three_rises_and_falls_to_one_after_three_overflows():
    spec = {"type": "AdaptiveLossScaleUpdateCell", "loss_scale_value": 1024, "scale_factor": 2, "scale_window": 20}
    scale = build_loss_scale(spec)
    assert scale.ladder == [20, 30, 40, 50, 100, 200, 500, 1000]
    for _ in range(60):
        scale.update(False)
    assert (scale.value, scale.scale_window) == (8192.0, 30)
    for _ in range(2):
        scale.update(True)
    assert (scale.value, scale.scale_window) == (2048.0, 30)
    scale.update(True)
    assert (scale.value, scale.scale_window) == (1024.0, 1)
    for _ in range(3):
        scale.update(False)
    assert (scale.value, scale.scale_window) == (8192.0, 20)


@pytest.mark.parametrize("name", ["DynamicLossScaleUpdateCell", "AdaptiveLossScaleUpdateCell"])
def test_a_restored_scale_goes_on_alike(name):
    spec = {"type": name, "loss_scale_value": 256, "scale_factor": 2, "scale_window": 2}
    straight, stopped, resumed = (build_loss_scale(spec) for _ in range(3))
    for overflow in overflows(5):
        straight.update(bool(overflow))
        stopped.update(bool(overflow))
        resumed.restore(stopped.state())
        assert resumed.state() == straight.state()


def test_numbers_and_fixed_scales():
    for spec in (128, "128", {"type": "FixedLossScaleUpdateCell", "loss_scale_value": 128}):
        scale = build_loss_scale(spec)
        scale.update(True)
        scale.restore({"value": 7.0, "good_steps": 0})
        assert scale.value == 128.0
    assert build_loss_scale(None).value == 1.0
    assert {"DynamicLossScaleUpdateCell", "FixedLossScaleUpdateCell", "AdaptiveLossScaleUpdateCell"} <= set(
        SCALE_SENSES.names()
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (0, "runner_wrapper.scale_sense: got 0. Give a number above 0"),
        ("big", "runner_wrapper.scale_sense: got 'big'. Give a number above 0"),
        (DYNAMIC | {"scale_factor": 1}, "scale_sense.scale_factor: got 1. Use a factor above 1."),
        (DYNAMIC | {"scale_window": 0}, "scale_sense.scale_window: got 0."),
        (DYNAMIC | {"window": 5}, "runner_wrapper.scale_sense.window: got 5. Unknown key."),
        ({"type": "AdaptiveLossScaleUpdateCell", "max_scale_window": 10}, "below max_scale_window (10)"),
    ],
)
def test_faults_name_the_key(spec, message):
    with pytest.raises(ConfigError) as caught:
        build_loss_scale(spec)
    assert message in str(caught.value)
