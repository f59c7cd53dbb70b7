"""One moment of a training run, to a .ckpt and back."""

import json
import random
import struct

import mindspore as ms
import numpy as np
import pytest

from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.store.resume import (
    TrainState,
    capture_rng,
    global_step_of,
    read_train_state,
    restore_rng,
    to_ckpt,
)
from mindformers_glm.errors import CheckpointError


def state(step: int = 5) -> TrainState:
    values = np.random.default_rng(step)
    weights = {
        "transformer.output_layer.weight": values.standard_normal((3, 4)).astype(np.float16),
        "transformer.encoder.final_layernorm.weight": values.standard_normal(4).astype(np.float32),
    }
    optimizer = {
        f"{kind}.{name}": values.standard_normal(weight.shape).astype(np.float32)
        for kind in ("adam_m", "adam_v")
        for name, weight in weights.items()
    }
    return TrainState(
        epoch=1,
        step_in_epoch=step - 4,
        global_step=step,
        loss_scale=struct.unpack("<f", b"\x01\x02\x03\x45")[0],
        loss_scale_good_steps=3,
        rng={"numpy": ["MT19937", [1, 2], 3, 0, 0.1]},
        weights=weights,
        optimizer={**optimizer, "beta1_power": np.float32(0.9)},
        data={"seed": 7, "batch_size": 2},
        steps_per_epoch=4,
    )


def assert_equal(left: TrainState, right: TrainState) -> None:
    for key, value in left.__dict__.items():
        if key in ("weights", "optimizer"):
            other = getattr(right, key)
            assert list(value) == list(other)
            for name, array in value.items():
                assert np.asarray(array).dtype == other[name].dtype, name
                assert np.asarray(array).shape == other[name].shape, name
                assert np.asarray(array).tobytes() == other[name].tobytes(), name
        else:
            assert value == getattr(right, key), key


def test_round_trip_is_exact(tmp_path):
    save_ckpt(tmp_path / "x.ckpt", *to_ckpt(state()))
    assert_equal(state(), read_train_state(tmp_path / "x.ckpt"))
    assert global_step_of(tmp_path / "x.ckpt") == 5


def test_mindspore_and_mindformers_find_their_entries(tmp_path):
    save_ckpt(tmp_path / "x.ckpt", *to_ckpt(state()))
    theirs = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    assert theirs["global_step"].asnumpy().tolist() == [5]
    assert theirs["global_step"].dtype == ms.int32
    assert int(theirs["epoch_num"].asnumpy()) == 2
    assert int(theirs["step_num"].asnumpy()) == 1
    assert float(theirs["loss_scale"].asnumpy()) == state().loss_scale
    assert json.loads(theirs["train_state"].asnumpy().tobytes())["version"] == 1


@pytest.mark.parametrize(
    ("epoch", "step", "name"), [(0, 0, (1, 0)), (0, 3, (1, 3)), (1, 0, (1, 4)), (1, 1, (2, 1)), (2, 0, (2, 4))]
)
def test_numbers_in_the_name(epoch, step, name):
    assert TrainState(epoch=epoch, step_in_epoch=step, steps_per_epoch=4).file_epoch_step == name


def test_a_snapshot_is_independent():
    live = state()
    copy = live.snapshot()
    live.weights["transformer.output_layer.weight"][:] = 0
    assert_equal(copy, state())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_states_of_real_mindformers_runs(golden, kind):
    path = next((golden / f"mindformers_r08/training/{kind}/output/checkpoint/rank_0").glob("*.ckpt"))
    theirs = {name: value.asnumpy() for name, value in ms.load_checkpoint(str(path)).items()}
    got = read_train_state(path, steps_per_epoch=8)
    assert (got.epoch, got.step_in_epoch, got.global_step, got.loss_scale) == (1, 0, 8, 1.0)
    assert got.file_epoch_step == (1, 8)
    assert len(got.weights) == {"full": 17, "lora": 21}[kind]
    assert len(got.optimizer) == {"full": 34, "lora": 8}[kind]
    for name, array in {**got.weights, **got.optimizer}.items():
        np.testing.assert_array_equal(array, theirs[name])
    in_the_middle = read_train_state(path, steps_per_epoch=20)
    assert (in_the_middle.epoch, in_the_middle.step_in_epoch) == (0, 8)


def test_steps_are_counted_where_mindformers_did_not(tmp_path):
    counters = {"global_step": np.zeros(1, np.int32), "epoch_num": 3, "step_num": 2}
    save_ckpt(tmp_path / "x.ckpt", {"transformer.output_layer.weight": np.ones(2), **counters})
    assert read_train_state(tmp_path / "x.ckpt", steps_per_epoch=10).global_step == 22


def test_weights_alone_cannot_be_resumed(golden, tmp_path):
    with pytest.raises(CheckpointError, match="weights and no training state"):
        read_train_state(golden / "mindformers_r08/training/init.ckpt")
    with pytest.raises(CheckpointError, match="weights and no training state"):
        global_step_of(golden / "mindformers_r08/training/init.ckpt")


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}'])
def test_a_damaged_state_is_one_clear_line(tmp_path, text):
    save_ckpt(tmp_path / "x.ckpt", {"global_step": np.ones(1, np.int32)}, {"train_state": text})
    with pytest.raises(CheckpointError, match="training state cannot be read"):
        read_train_state(tmp_path / "x.ckpt")


def test_generators_continue_where_they_were():
    ms.set_seed(3)
    np.random.seed(4)
    random.seed(5)
    np.random.rand(7), random.random()
    before = json.loads(json.dumps(capture_rng()))
    wanted = (np.random.rand(3).tolist(), np.random.randn(1).tolist(), random.random(), capture_rng())
    np.random.seed(0)
    random.seed(0)
    ms.set_seed(9)
    restore_rng(before)
    assert (np.random.rand(3).tolist(), np.random.randn(1).tolist(), random.random(), capture_rng()) == wanted
    assert ms.get_seed() == 3


def test_an_empty_state_changes_no_generator():
    before = capture_rng()
    restore_rng({})
    assert capture_rng() == before
