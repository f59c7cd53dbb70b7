"""Callbacks: the lines users know, checkpoints by name, evaluation, TensorBoard, profiler."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest

from mindformers_glm.checkpoint.store.resume import read_train_state
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger
from mindformers_glm.optim import build_loss_scale
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks import (
    CheckpointMonitor,
    EvalCallBack,
    LossHistory,
    LossMonitor,
    MFLossMonitor,
    ProfileMonitor,
    ProgressBar,
    SummaryMonitor,
    TimeMonitor,
    build_callbacks,
)
from mindformers_glm.train.curve import smooth
from mindformers_glm.train.fit import fit
from mindformers_glm.train.plan import make_plan
from mindformers_glm.train.state import RunState
from mindformers_glm.train.step import StepResult
from mindformers_glm.train.trackers import build_trackers

PREFIX = r"^\S+ \S+ - mindformers\[[^\]]+\] - INFO - "
LEARNING_RATE = re.compile(r"lr: [^,]+, ")


@pytest.fixture
def lines(caplog):
    logger.propagate = True
    caplog.set_level(logging.INFO, logger=logger.name)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = False


class Still:
    """A step that was made already: what MFLossMonitor needs to know of one."""

    loss_scale = build_loss_scale(None)
    accumulation = 1


def played(losses, seconds, **plan):
    """States after each step of a run with these losses and times."""
    state = RunState(step=Still(), plan=make_plan(**plan), batch_size=8)
    for loss, second in zip(losses, seconds, strict=True):
        state.done, state.step_seconds = state.done + 1, second
        state.result = StepResult(loss, False, 1.0, 1.0, 5e-5, False)
        yield state


def test_lines_are_those_of_mindformers(golden, lines):
    """The golden console, with its losses and step times, comes out letter by letter but for the learning rate."""
    folder = golden / "mindformers_r08/training/full"
    wanted = [re.sub(PREFIX, "", text) for text in (folder / "console_callback_lines.txt").read_text().splitlines()]
    wanted = [text for text in wanted if text.startswith(("{ Epoch", "  "))]
    losses = [row["loss"] for row in json.loads((folder / "losses.json").read_text())["straight"]]
    speeds = [float(re.search(r"([\d.]+) samples", text)[1]) for text in wanted[1::2]]
    monitor = MFLossMonitor()
    for state in played(losses, [8 / speed for speed in speeds], batches=8, epochs=2):
        monitor.on_step_end(state)
    found = lines()
    assert len(found) == len(wanted) == 32
    for ours, theirs in zip(found, wanted, strict=True):
        if theirs.startswith("{"):
            assert "lr: 5e-05, " in ours
            ours, theirs = (re.sub(r"per_step_time: \d+ms", "", text) for text in (ours, theirs))
        assert LEARNING_RATE.sub("", ours) == theirs


def test_with_sinking_there_is_one_line_for_each_sink(lines):
    monitor = MFLossMonitor()
    for state in played([3.0, 2.0, 1.5, 1.0], [2.0, 0.1, 0.1, 0.1], batches=4, sink_mode=True, sink_size=2):
        state.shows_scale = True
        monitor.on_step_end(state)
    assert lines() == [
        "{ Epoch:[  1/  1], step:[    2/    4], loss: 2.000, per_step_time: 1050ms, lr: 5e-05, overflow cond: False, "
        "loss_scale: 1.0",
        "  50.0% |█████████████████████████                         | 7.62 samples/s/p  0:00:02 }",
        "{ Epoch:[  1/  1], step:[    4/    4], loss: 1.000, per_step_time: 100ms, lr: 5e-05, overflow cond: False, "
        "loss_scale: 1.0",
        "  100.0% |██████████████████████████████████████████████████| 80.00 samples/s/p  0:00:00 }",
    ]


def test_an_overflow_shows_in_the_line(toy, tmp_path, lines):
    data = toy.dataset()
    scale = build_loss_scale({"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 8})
    step = toy.step(network=toy.square_root(), loss_scale=scale)
    state = toy.run(tmp_path, data, step=step, plan={"max_steps": 2}, shows_scale=True)
    fit(state, data, lambda step: 0.1, [MFLossMonitor(per_print_times=2)])
    (line,) = [text for text in lines() if text.startswith("{")]
    assert line.endswith("lr: 0.1, overflow cond: True, loss_scale: 4.0")


def test_mindspores_own_monitors(toy, tmp_path, lines):
    data = toy.dataset()
    fit(toy.run(tmp_path, data, step=toy.nudge()), data, lambda step: 0.01, [LossMonitor(3), TimeMonitor()])
    found = lines()
    assert [text[:16] for text in found if "loss is" in text] == [
        f"epoch: {epoch} step: {step}"[:16] for epoch in (1, 2) for step in (3, 6)
    ]
    assert sum("Train epoch time: " in text for text in found) == 2


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ckpt"))


def test_checkpoints_of_a_run_have_the_names_of_the_golden_one(toy, tmp_path):
    """2 epochs of 8 steps, saved every 4: the tree in training_meta.json."""
    data = toy.dataset(rows=32)
    monitor = CALLBACKS.build(
        {
            "type": "CheckpointMointor",
            "prefix": "glm2-6b",
            "save_checkpoint_steps": 4,
            "keep_checkpoint_max": 10,
            "integrated_save": False,
            "async_save": False,
        },
        "callbacks.2",
    )
    fit(toy.run(tmp_path, data, step=toy.nudge()), data, lambda step: 0.01, [monitor])
    names = [f"checkpoint/rank_0/glm2-6b_rank_0-{epoch}_{step}.ckpt" for epoch in (1, 2) for step in (4, 8)]
    assert files(tmp_path) == [*names, "checkpoint_network/rank_0/glm2-6b_rank_0-network.ckpt"]


def test_with_sinking_checkpoints_count_sinks(toy, tmp_path):
    data = toy.dataset(rows=40)  # 10 steps: two sinks of 4, and 2 steps left over
    plan = {"epochs": 1, "sink_mode": True, "sink_size": 4}
    monitor = CheckpointMonitor(prefix="p", save_checkpoint_steps=3, save_network_params=False)
    state = fit(toy.run(tmp_path, data, step=toy.nudge(), plan=plan), data, lambda step: 0.01, [monitor])
    assert state.done == 8
    assert files(tmp_path) == ["checkpoint/rank_0/p_rank_0-1_4.ckpt", "checkpoint/rank_0/p_rank_0-2_4.ckpt"]
    resumed = toy.run(tmp_path, data, step=toy.nudge(), plan={**plan, "epochs": 2})
    path = tmp_path / "checkpoint/rank_0/p_rank_0-1_4.ckpt"
    resumed.restore(read_train_state(path), place=str(path))
    assert (resumed.done, resumed.position()) == (4, (0, 4))
    resumed.done = 12
    assert resumed.position() == (1, 2)


def test_the_last_step_is_saved_and_only_as_many_are_kept(toy, tmp_path):
    data = toy.dataset()
    monitor = CheckpointMonitor(
        prefix="p", save_checkpoint_steps=5, keep_checkpoint_max=2, save_trainable_params=True, async_save=True
    )
    fit(toy.run(tmp_path, data, step=toy.nudge()), data, lambda step: 0.01, [monitor])
    assert files(tmp_path) == [
        "checkpoint/rank_0/p_rank_0-2_4.ckpt",
        "checkpoint/rank_0/p_rank_0-2_6.ckpt",
        "checkpoint_network/rank_0/p_rank_0-network.ckpt",
        "checkpoint_trainable/rank_0/p_rank_0-trainable_params.ckpt",
    ]


def test_seconds_alone_save_by_the_clock(toy, tmp_path, monkeypatch):
    clock = iter(np.arange(0, 1000, 0.6).tolist())
    monkeypatch.setattr("mindformers_glm.train.callbacks.checkpoint_monitor.time.monotonic", lambda: next(clock))
    data = toy.dataset()
    monitor = CheckpointMonitor(prefix="p", save_checkpoint_seconds=2, keep_checkpoint_max=0)
    fit(toy.run(tmp_path, data, step=toy.nudge(), plan={"max_steps": 8}), data, lambda step: 0.01, [monitor])
    found = [path.name for path in (tmp_path / "checkpoint").rglob("*.ckpt")]
    assert sorted(found) == ["p_rank_0-1_4.ckpt", "p_rank_0-2_2.ckpt"]  # and none besides at the end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enc_key": "secret"}, "enc_key: got '***'. Checkpoints are not encrypted"),
        ({"keep_checkpoint_per_n_minutes": 5}, "keep_checkpoint_per_n_minutes: got 5."),
        ({"save_checkpoint_steps": 0}, "save_checkpoint_steps: got 0. Use 1 or more steps"),
        ({"checkpoint_format": "safetensors"}, "checkpoint_format: got 'safetensors'."),
    ],
)
def test_what_a_checkpoint_monitor_cannot_do_it_refuses(arguments, message):
    with pytest.raises(ConfigError) as caught:
        CheckpointMonitor(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("intervals", "steps"),
    [
        ({"step_interval": 5, "epoch_interval": -1}, [5, 10]),
        ({"step_interval": -1, "epoch_interval": 1}, [6, 12]),
        ({"step_interval": 4, "epoch_interval": 2}, [4, 8, 12]),
    ],
)
def test_evaluation_comes_at_its_intervals(toy, tmp_path, lines, intervals, steps):
    data, modes = toy.dataset(), []
    state = toy.run(tmp_path, data, step=toy.nudge())

    def evaluate():
        modes.append(state.network.training)
        return {"PPL": 2.5}

    callback = EvalCallBack(eval_func=evaluate, **intervals)
    fit(state, data, lambda step: 0.01, [callback])
    assert [step for step, _ in callback.results] == steps
    assert modes == [False] * len(steps)
    assert state.network.training
    found = [text for text in lines() if text.startswith("Eval result")]
    assert len(found) == len(steps)
    assert all(re.fullmatch(r"Eval result: \{'PPL': 2.5\}, eval time is \d+\.\d+ s\.", text) for text in found)


def test_evaluation_changes_no_number_of_the_training(toy, tmp_path):
    data, states = toy.dataset(), []
    for callbacks in ([], [EvalCallBack(eval_func=dict, step_interval=2)]):
        states.append(fit(toy.run(tmp_path, data), data, lambda step: 0.01, callbacks))
    np.testing.assert_array_equal(*(state.network.table.asnumpy() for state in states))


def test_tensorboard_gets_four_numbers(toy, tmp_path):
    pytest.importorskip("tensorboardX")
    data = toy.dataset()
    fit(toy.run(tmp_path, data, step=toy.nudge()), data, lambda step: 0.01, [SummaryMonitor(collect_freq=5)])
    (events,) = (tmp_path / "summary/rank_0").glob("events.*")
    content = events.read_bytes()
    assert all(name in content for name in (b"loss", b"learning_rate", b"loss_scale", b"grad_norm"))


def test_without_tensorboard_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mindformers_glm\[tensorboard\]'"):
        SummaryMonitor()
    with pytest.raises(ConfigError, match=r"It needs swanlab: pip install 'mindformers_glm\[swanlab\]'"):
        build_trackers(["swanlab"])


def test_the_profiler_sees_the_steps_it_is_told(toy, tmp_path):
    data = toy.dataset()
    fit(
        toy.run(tmp_path, data, plan={"max_steps": 4}),
        data,
        lambda s: 0.01,
        [ProfileMonitor(start_step=2, stop_step=3)],
    )
    assert any(path.is_file() for path in (tmp_path / "profile/rank_0").rglob("*"))


def test_a_bar_shows_on_a_terminal_only(toy, tmp_path, capsys):
    data = toy.dataset()
    fit(toy.run(tmp_path, data, step=toy.nudge()), data, lambda step: 0.01, [ProgressBar()])
    assert "step/s" not in capsys.readouterr().err
    fit(toy.run(tmp_path, data, step=toy.nudge()), data, lambda step: 0.01, [ProgressBar(force=True)])
    assert "12/12" in capsys.readouterr().err


def test_the_list_of_a_yaml_file_is_built_in_order():
    specs = [
        {"type": "MFLossMonitor"},
        {"type": "CheckpointMointor", "prefix": "glm2-6b", "save_checkpoint_steps": 1000, "keep_checkpoint_max": 2,
         "integrated_save": False, "async_save": False},
        {"type": "ObsMonitor", "keep_last": False},
    ]  # fmt: skip
    found = build_callbacks(specs, evaluate=dict, eval_step_interval=500, eval_epoch_interval=-1)
    assert [type(callback).__name__ for callback in found] == [
        "ProgressBar",
        "MFLossMonitor",
        "EvalCallBack",
        "CheckpointMonitor",
        "ObsMonitor",
        "LossHistory",
    ]
    assert found[2].step_interval == 500
    found = build_callbacks(specs[:1], evaluate=dict)
    assert [type(callback).__name__ for callback in found][-2:] == ["LossHistory", "EvalCallBack"]
    names = {
        "MFLossMonitor",
        "CheckpointMointor",
        "CheckpointMonitor",
        "SummaryMonitor",
        "ProfileMonitor",
        "ObsMonitor",
    }
    assert names | {"EvalCallBack", "LossMonitor", "TimeMonitor"} <= set(CALLBACKS.names())
    with pytest.raises(ConfigError, match=r"callbacks.0.per_print_time: got 2. Unknown key. Did you mean"):
        build_callbacks([{"type": "MFLossMonitor", "per_print_time": 2}])


def test_the_curve_is_left_out_without_matplotlib(toy, tmp_path, monkeypatch, lines):
    import builtins  # noqa: PLC0415

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    data = toy.dataset()
    monkeypatch.setattr(builtins, "__import__", without)
    fit(toy.run(tmp_path, data, step=toy.nudge(), plan={"max_steps": 2}), data, lambda step: 0.01, [LossHistory()])
    assert not (tmp_path / "loss_curve.png").exists()
    assert any("mindformers_glm[plot]" in text for text in lines())


def test_the_smoothed_line_starts_at_the_first_value_and_passes_over_gaps():
    line = smooth(np.array([4.0, np.nan, 4.0, 2.0]))
    assert line[:3].tolist() == pytest.approx([4.0, 4.0, 4.0])
    assert 2.0 < line[3] < 4.0
