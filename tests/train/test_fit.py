"""The loop: order of events, exact resume, and every way in which a run ends."""

from __future__ import annotations

import json
import logging
import os
import signal

import numpy as np
import pytest
from mindspore import Tensor
from waiting import until_a_signal_is_taken

from mindformers_glm.checkpoint.store import CheckpointStore
from mindformers_glm.checkpoint.store.resume import read_train_state
from mindformers_glm.errors import CheckpointError, TrainingStopped
from mindformers_glm.log import logger
from mindformers_glm.optim import AdamW, build_loss_scale, build_schedule, optimizer_arrays
from mindformers_glm.train.callbacks import Callback, CheckpointMonitor, LossHistory
from mindformers_glm.train.callbacks.history import read_history
from mindformers_glm.train.fit import MAX_OVERFLOWS, fit
from mindformers_glm.train.interrupt import Interrupt

pytestmark = pytest.mark.usefixtures("a_terminal")
SCHEDULE = build_schedule(
    {"type": "polynomial", "learning_rate": 0.02, "lr_end": 1e-3, "warmup_steps": 2, "total_steps": 12}
)
DYNAMIC = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 1024, "scale_factor": 2, "scale_window": 3}


class Recorder(Callback):
    """Every event, and the losses."""

    def __init__(self):
        self.events, self.losses, self.rates = [], [], []

    def __getattribute__(self, name):
        if name.startswith("on_") or name == "close":
            self.events.append(name)
        return super().__getattribute__(name)

    def on_step_end(self, state):
        self.losses.append(state.result.loss)
        self.rates.append(state.result.learning_rate)


class StopAt(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def on_step_end(self, state):
        if state.done == self.step:
            with until_a_signal_is_taken():
                os.kill(os.getpid(), self.number)


class Spoilt:
    """A dataset whose batch `index` is made unusable by `spoil`."""

    def __init__(self, inner, index, spoil):
        self.inner, self.index, self.spoil = inner, index, spoil
        self.batch_size, self.order = inner.batch_size, inner.order

    def __len__(self):
        return len(self.inner)

    def batches(self, epoch, start=0):
        for index, batch in enumerate(self.inner.batches(epoch, start), start):
            yield self.spoil(batch) if index == self.index else batch


@pytest.fixture
def lines(caplog):
    logger.propagate = True
    caplog.set_level(logging.INFO, logger=logger.name)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = False


def arrays(state):
    return {p.name: p.asnumpy().copy() for p in state.network.get_parameters()} | {
        name: value.copy() for name, value in optimizer_arrays(state.optimizer).items()
    }


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_events_come_in_order_and_the_rate_follows_the_schedule(toy, tmp_path, lines):
    data, seen = toy.dataset(), Recorder()
    state = fit(toy.run(tmp_path, data), data, SCHEDULE, [seen])
    epoch = ["on_step_end"] * 6 + ["on_epoch_end"]
    assert seen.events == ["on_train_begin", *epoch, *epoch, "on_train_end", "close"]
    assert seen.rates == [SCHEDULE(step) for step in range(12)]
    assert (state.done, state.updates, state.epoch, state.step_in_epoch) == (12, 12, 2, 6)
    assert np.mean(seen.losses[6:]) < 0.9 * np.mean(seen.losses[:6])
    assert "Compiling the training graph for batches of 4 x 6" in lines()[0]
    assert "Compiled, and made the first step, in " in lines()[1]


def test_a_finished_run_trains_no_further(toy, tmp_path):
    data, seen = toy.dataset(), Recorder()
    state = toy.run(tmp_path, data)
    state.done = 12
    fit(state, data, SCHEDULE, [seen])
    assert seen.events == ["on_nothing_to_train", "close"]


def test_a_finished_run_renews_the_network_of_a_run_that_died_before_writing_it(toy, tmp_path):
    data = toy.dataset()
    monitor = CheckpointMonitor(prefix="toy", save_checkpoint_steps=6, save_trainable_params=True)
    state = fit(toy.run(tmp_path, data, step=toy.nudge()), data, SCHEDULE, [monitor])
    network = tmp_path / "checkpoint_network/rank_0/toy_rank_0-network.ckpt"
    trainable = tmp_path / "checkpoint_trainable/rank_0/toy_rank_0-trainable_params.ckpt"
    right = [network.read_bytes(), trainable.read_bytes()]
    path = tmp_path / "checkpoint/rank_0/toy_rank_0-2_6.ckpt"
    meta = path.with_name("meta.json")

    def resume():
        resumed = toy.run(tmp_path, data, step=toy.nudge())
        resumed.restore(read_train_state(path), place=str(path))
        fit(resumed, data, SCHEDULE, [CheckpointMonitor(prefix="toy", save_trainable_params=True)])
        return [network.read_bytes(), trainable.read_bytes()]

    told = json.loads(meta.read_text())
    told["networks"]["toy"]["file"] = "toy_rank_0-1_6.ckpt"  # as a run leaves it that died before the second file
    meta.write_text(json.dumps(told))
    network.write_bytes(b"of an earlier step")
    assert resume() == right
    network.unlink()
    assert resume() == right
    trainable.unlink()
    assert resume() == right
    meta.unlink()  # a folder of an earlier version has no note
    network.write_bytes(b"of an earlier step")
    assert resume() == right
    before = network.stat().st_mtime_ns
    assert resume() == right and network.stat().st_mtime_ns == before  # nothing to renew: nothing is written
    assert state.done == 12


@pytest.mark.parametrize(
    ("stop", "settings"), [(6, {}), (9, {}), (5, {"accumulation": 2, "loss_scale": DYNAMIC, "optimizer": AdamW})]
)
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(toy, tmp_path, stop, settings):
    def run(folder, compiled=None):
        chosen = dict(settings)
        if "loss_scale" in chosen:
            chosen["loss_scale"] = build_loss_scale(DYNAMIC)
        step = toy.renewed(compiled, toy.step(**chosen)) if compiled else toy.step(**chosen)
        return toy.run(folder, data, step=step, plan={"epochs": 4 if settings else 2})

    data = toy.dataset()
    straight, seen = run(tmp_path / "a"), Recorder()
    fit(straight, data, SCHEDULE, [seen])
    wanted, scale = arrays(straight), straight.step.loss_scale.state()
    first = run(tmp_path / "b", straight.step)
    monitor = CheckpointMonitor(prefix="toy", save_checkpoint_steps=100)
    with pytest.raises(TrainingStopped):
        fit(first, data, SCHEDULE, [monitor, StopAt(stop)])
    resumed, rest = run(tmp_path / "b"), Recorder()
    saved = CheckpointStore(tmp_path / "b", "toy", resume=True)
    path = saved.newest().path
    saved.close()
    resumed.restore(read_train_state(path), place=str(path))
    assert resumed.done == stop
    fit(resumed, data, SCHEDULE, [rest])
    assert rest.losses == seen.losses[stop:]
    same(arrays(resumed), wanted)
    assert resumed.step.loss_scale.state() == scale


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_finishes_the_step_saves_and_says_how_to_go_on(toy, tmp_path, number):
    data, seen = toy.dataset(), Recorder()
    monitor = CheckpointMonitor(prefix="toy", save_checkpoint_steps=100)
    before = signal.getsignal(number)
    with pytest.raises(TrainingStopped) as caught:
        fit(toy.run(tmp_path, data, step=toy.nudge()), data, SCHEDULE, [monitor, seen, StopAt(4, number)])
    path = tmp_path / "checkpoint/rank_0/toy_rank_0-1_4.ckpt"
    assert str(caught.value) == (f"Interrupted after step 4 of 12. Saved {path}. To go on, set resume_training: True.")
    assert path.is_file()
    assert seen.events[-2:] == ["on_interrupt", "close"]
    assert len(seen.losses) == 4
    assert signal.getsignal(number) is before


def test_an_interrupt_without_a_checkpoint_monitor_says_that_nothing_was_saved(toy, tmp_path):
    data = toy.dataset()
    with pytest.raises(TrainingStopped, match="after step 2 of 12. Nothing was saved"):
        fit(toy.run(tmp_path, data, step=toy.nudge()), data, SCHEDULE, [StopAt(2)])


def test_an_interrupt_in_the_last_step_is_no_interrupt(toy, tmp_path):
    data, seen = toy.dataset(), Recorder()
    fit(toy.run(tmp_path, data, step=toy.nudge()), data, SCHEDULE, [seen, StopAt(12)])
    assert seen.events[-2:] == ["on_train_end", "close"]


def test_a_loss_that_is_not_finite_stops_and_names_step_lines_and_rate(toy, tmp_path):
    data, seen = toy.dataset(), Recorder()
    with pytest.raises(TrainingStopped) as caught:
        fit(toy.run(tmp_path, data), data, SCHEDULE, [Poisoned(9), seen])
    message, rows = str(caught.value), list(data.batches(1))[3].rows
    assert (
        f"The loss is nan at step 10 (epoch 2, step 4 of it; samples in lines {', '.join(map(str, rows))};" in message
    )
    assert f"learning rate {SCHEDULE(9):g})" in message
    assert len(seen.losses) == 9
    assert seen.events[-1] == "close"


class Poisoned(Callback):
    """Makes one weight NaN after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.done == self.step:
            table = state.network.table
            table.set_data(Tensor(np.full(table.shape, np.nan, np.float32)))


def test_endless_overflows_stop_when_the_scale_cannot_fall(toy, tmp_path):
    """The loss is finite and its gradient is not: sqrt at 0."""
    data = toy.dataset(rows=240)
    scale = build_loss_scale(DYNAMIC | {"loss_scale_value": 4})
    step = toy.step(network=toy.square_root(), loss_scale=scale)
    state, seen = toy.run(tmp_path, data, step=step), Recorder()
    with pytest.raises(TrainingStopped, match=f"not finite in {MAX_OVERFLOWS} steps in a row although the loss scale"):
        fit(state, data, SCHEDULE, [seen])
    assert (state.updates, state.overflows, state.done) == (0, 2 + MAX_OVERFLOWS, 2 + MAX_OVERFLOWS)
    assert set(seen.rates) == {SCHEDULE(0)}


def test_an_error_reaches_the_callbacks_and_the_caller(toy, tmp_path):
    def broken(batch):
        raise OSError("disk gone")

    data = Spoilt(toy.dataset(), 3, broken)
    monitor, seen = CheckpointMonitor(prefix="toy", save_checkpoint_steps=100, exception_save=True), Recorder()
    with pytest.raises(OSError, match="disk gone"):
        fit(toy.run(tmp_path, data, step=toy.nudge()), data, SCHEDULE, [monitor, seen])
    assert seen.events[-2:] == ["on_error", "close"]
    assert (tmp_path / "checkpoint/rank_0/toy_rank_0-1_3.ckpt").is_file()


def test_a_run_resumes_only_on_the_same_data(toy, tmp_path):
    data = toy.dataset()
    state = fit(toy.run(tmp_path, data, step=toy.nudge(), plan={"max_steps": 4}), data, SCHEDULE)
    saved = state.capture()
    with pytest.raises(CheckpointError, match="a.ckpt: it was saved with seed 3, and this run has 4. The order of the"):
        toy.run(tmp_path, toy.dataset(seed=4)).restore(saved, place="a.ckpt")


def test_another_number_of_ranks_or_rows_per_batch_goes_on_at_the_same_sample(toy, tmp_path):
    data = toy.dataset(batch_size=4)
    saved = fit(toy.run(tmp_path, data, step=toy.nudge(), plan={"max_steps": 4}), data, SCHEDULE).capture()
    for size, ranks, done in ((2, 2, 4), (8, 1, 2), (2, 1, 8)):
        state = toy.run(tmp_path, toy.dataset(batch_size=size), data_ranks=ranks)
        state.restore(saved, place="a.ckpt")
        assert state.done == done
    with pytest.raises(CheckpointError, match="saved after 16 samples, which are no whole steps of 3"):
        toy.run(tmp_path, toy.dataset(batch_size=3)).restore(saved, place="a.ckpt")


def test_history_and_curve_lie_beside_the_run_and_go_on_after_a_resume(toy, tmp_path):
    data = toy.dataset()
    state = fit(toy.run(tmp_path, data, step=toy.nudge(), plan={"max_steps": 7}), data, SCHEDULE, [LossHistory()])
    saved = state.capture().snapshot()
    state.plan, state.resumed = toy.run(tmp_path, data, step=toy.nudge()).plan, True
    fit(state, data, SCHEDULE, [LossHistory()])
    resumed = toy.run(tmp_path, data, step=toy.nudge())
    resumed.restore(saved, place="a.ckpt")
    fit(resumed, data, SCHEDULE, [LossHistory()])
    records = read_history(tmp_path / "loss_history.jsonl")
    assert [record["step"] for record in records] == list(range(1, 13))
    assert {"loss", "learning_rate", "grad_norm", "loss_scale", "overflow", "epoch", "seconds"} < set(records[0])
    assert (tmp_path / "loss_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_history_cut_short_reads_up_to_the_cut(tmp_path):
    path = tmp_path / "h.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert read_history(path) == [{"step": 1}]


def test_under_nohup_a_closed_terminal_means_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
