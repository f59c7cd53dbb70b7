"""The best checkpoint and early stopping: what is kept, what a run ends with, and that a resumed run does the same."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pytest

from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt
from mindformers_glm.checkpoint.store.resume import read_train_state
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.train.callbacks import Callback, CheckpointMonitor, EarlyStopping, build_callbacks
from mindformers_glm.train.callbacks.ending import Ending
from mindformers_glm.train.fit import fit
from mindformers_glm.train.goal import Goal, plain

FIGURES = {1: 9.0, 2: 5.0, 3: 7.0, 4: 4.0, 5: 8.0, 6: 8.5, 7: 4.0, 8: 6.0, 9: 6.0, 10: 6.0, 11: 6.0, 12: 6.0}


def rate(step):
    return 0.01


class Curve:
    """An evaluation whose figures are told beforehand, by the completed steps; notes the weights that it saw."""

    def __init__(self, state, figures=None, name="PPL"):
        self.state, self.figures, self.name, self.seen = state, figures or FIGURES, name, {}

    def __call__(self):
        done = self.state.done
        self.seen[done] = self.state.network.table.asnumpy().copy()
        return {self.name: np.float32(self.figures[done]), "note": "text"}


def train(toy, folder, specs, *, resume=None, evaluate=None, figures=None, load_best=False, stop_after=None, **plan):
    """A run over 12 steps that evaluates after each; `resume` names the checkpoint to go on from."""
    data = toy.dataset()
    state = toy.run(folder, data, step=toy.nudge(), plan={"epochs": 2, **plan})
    if resume is not None:
        path = folder / "checkpoint/rank_0" / resume
        state.restore(read_train_state(path), place=str(path))
    curve = Curve(state, figures)
    callbacks = build_callbacks(specs, evaluate=curve, eval_step_interval=1, load_best_at_end=load_best)
    if stop_after is not None:
        callbacks.append(Killer(stop_after))
    with contextlib.suppress(KeyboardInterrupt):
        fit(state, data, rate, callbacks)
    return state, curve


class Killer(Callback):
    """Ends the run without a chance to save, behind everybody's work of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.done == self.step:
            raise KeyboardInterrupt


def table(path):
    return open_ckpt(path).read_bits("table")


def names(folder):
    return sorted(path.name for path in (folder / "checkpoint/rank_0").glob("*.ckpt"))


def monitor(**arguments):
    return {"type": "CheckpointMonitor", "prefix": "p", "save_checkpoint_steps": 3, **arguments}


def test_the_best_is_saved_when_it_comes_and_never_deleted(toy, tmp_path):
    state, curve = train(toy, tmp_path, [monitor(keep_checkpoint_max=1, keep_best=True)])
    assert names(tmp_path) == ["p_rank_0-1_4.ckpt", "p_rank_0-2_6.ckpt"]  # step 7 is as good: the first stays
    best = table(tmp_path / "checkpoint/rank_0/p_rank_0-1_4.ckpt")
    np.testing.assert_array_equal(best, curve.seen[4])
    meta = json.loads((tmp_path / "checkpoint/rank_0/meta.json").read_text())
    assert meta["best"] == {"step": 4, "name": "PPL", "value": 4.0, "prefix": "p", "file": "p_rank_0-1_4.ckpt"}
    network = table(tmp_path / "checkpoint_network/rank_0/p_rank_0-network.ckpt")
    np.testing.assert_array_equal(network, state.network.table.asnumpy())  # without load_best_at_end: the last
    said = Ending().lines(state)
    assert said[1] == "  best evaluation: PPL 4.0000 after step 4"
    assert any(line.endswith("p_rank_0-1_4.ckpt") and "best checkpoint" in line for line in said)


@pytest.mark.parametrize(
    ("keep_best", "best"),
    [("ppl", 4), ({"metric": "PPL", "mode": "max"}, 1), ({"mode": "min"}, 4), ({"mode": "max"}, 1)],
)
def test_metric_and_mode_choose(toy, tmp_path, keep_best, best):
    state, _ = train(toy, tmp_path, [monitor(keep_best=keep_best)])
    assert state.best["step"] == best


def test_intervals_are_not_moved_by_what_is_best(toy, tmp_path):
    train(toy, tmp_path, [monitor(keep_checkpoint_max=0, keep_best=True)])
    assert names(tmp_path) == [
        f"p_rank_0-{epoch}_{step}.ckpt" for epoch, step in [(1, 1), (1, 2), (1, 3), (1, 4), (1, 6), (2, 3), (2, 6)]
    ]


def test_load_best_at_end_gives_the_weights_of_the_best(toy, tmp_path):
    state, curve = train(toy, tmp_path, [monitor(keep_checkpoint_max=1)], load_best=True)
    np.testing.assert_array_equal(state.network.table.asnumpy(), curve.seen[4])
    network = tmp_path / "checkpoint_network/rank_0/p_rank_0-network.ckpt"
    np.testing.assert_array_equal(table(network), curve.seen[4])
    last = table(tmp_path / "checkpoint/rank_0/p_rank_0-2_6.ckpt")
    np.testing.assert_array_equal(last, curve.seen[12])  # to train on from
    assert any("best weights" in line and "(of step 4)" in line for line in Ending().lines(state))

    again, _ = train(toy, tmp_path, [monitor(keep_checkpoint_max=1)], load_best=True, resume="p_rank_0-2_6.ckpt")
    np.testing.assert_array_equal(again.network.table.asnumpy(), curve.seen[4])  # nothing to train, the same end
    np.testing.assert_array_equal(table(network), curve.seen[4])


def test_a_best_that_somebody_deleted_is_told(toy, tmp_path):
    train(toy, tmp_path, [monitor(keep_checkpoint_max=1, keep_best=True)])
    (tmp_path / "checkpoint/rank_0/p_rank_0-1_4.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"p_rank_0-1_4\.ckpt"):
        train(toy, tmp_path, [monitor()], load_best=True, resume="p_rank_0-2_6.ckpt")


@pytest.mark.parametrize("killed", [3, 5, 8])
def test_a_resumed_run_knows_the_best(toy, tmp_path, killed):
    """Killed at any moment and gone on, a run keeps and loads what an undisturbed one does."""
    specs = [monitor(keep_checkpoint_max=2)]
    whole, _ = train(toy, tmp_path / "whole", specs, load_best=True)
    train(toy, tmp_path / "killed", specs, load_best=True, stop_after=killed)
    newest = json.loads((tmp_path / "killed/checkpoint/rank_0/meta.json").read_text())["last_ckpt_file"]
    state, _ = train(toy, tmp_path / "killed", specs, load_best=True, resume=newest)
    np.testing.assert_array_equal(state.network.table.asnumpy(), whole.network.table.asnumpy())
    assert state.best == whole.best
    assert (
        plain(state.evaluations)
        == [(step, {"PPL": figure}) for step, figure in FIGURES.items()][: len(state.evaluations)]
    )
    assert "p_rank_0-1_4.ckpt" in names(tmp_path / "killed")


def test_training_ends_when_nothing_gets_better(toy, tmp_path):
    specs = [monitor(keep_checkpoint_max=1), {"type": "EarlyStopping", "patience": 4}]
    state, curve = train(toy, tmp_path, specs, load_best=True)
    assert state.done == 8  # the best is step 4, and step 7 only as good
    assert names(tmp_path) == ["p_rank_0-1_4.ckpt", "p_rank_0-2_2.ckpt"]
    np.testing.assert_array_equal(state.network.table.asnumpy(), curve.seen[4])


@pytest.mark.parametrize(
    ("arguments", "done"),
    [
        ({"patience": 1}, 3),
        ({"patience": 2}, 6),
        ({"patience": 2, "min_delta": 1.5}, 4),  # 5 to 4 is not enough
        ({"patience": 2, "mode": "max"}, 3),
        ({"patience": 20}, 12),
    ],
)
def test_patience_counts_evaluations_without_a_better_one(toy, tmp_path, arguments, done):
    state, _ = train(toy, tmp_path, [{"type": "EarlyStopping", **arguments}])
    assert state.done == done


@pytest.mark.parametrize("killed", [2, 5, 6, 7])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(toy, tmp_path, killed):
    specs = [monitor(save_checkpoint_steps=1), {"type": "EarlyStopping", "patience": 4}]
    train(toy, tmp_path, specs, stop_after=killed)
    newest = json.loads((tmp_path / "checkpoint/rank_0/meta.json").read_text())["last_ckpt_file"]
    state, _ = train(toy, tmp_path, specs, resume=newest)
    assert state.done == 8
    ended, curve = train(toy, tmp_path, specs, resume="p_rank_0-2_2.ckpt")  # over already: no step more
    assert (ended.done, curve.seen) == (8, {})
    assert Ending().lines(ended)[0] == "Trained 8 steps."
    longer, _ = train(toy, tmp_path, [specs[0], {**specs[1], "patience": 5}], resume="p_rank_0-2_2.ckpt")
    assert longer.done == 9


def test_nan_is_never_best(toy, tmp_path):
    figures = {**FIGURES, 1: math.nan, 4: math.nan}
    state, _ = train(toy, tmp_path, [monitor(keep_best=True)], figures=figures)
    assert (state.best["step"], state.best["value"]) == (7, 4.0)


def test_of_figures_the_name_tells_what_is_better():
    falls = {name: Goal().falls(name) for name in ("loss", "PPL", "eval_loss", "rouge-1", "bleu-4", "acc", "F1")}
    assert falls == {"loss": True, "PPL": True, "eval_loss": True, "rouge-1": False, "bleu-4": False, "acc": False,
                     "F1": False}  # fmt: skip
    assert Goal(mode="max").falls("loss") is False


@pytest.mark.parametrize(
    ("specs", "settings", "message"),
    [
        ([monitor(keep_best=True)], {}, r"CheckpointMonitor.keep_best: .*do_eval: True"),
        ([{"type": "EarlyStopping"}], {}, r"callbacks.EarlyStopping: .*do_eval: True"),
        ([monitor()], {"load_best_at_end": True}, r"do_eval: True"),
        ([], {"load_best_at_end": True}, r"load_best_at_end: got True. Add CheckpointMonitor"),
        ([monitor(keep_best={"metrics": "PPL"})], {}, r"keep_best: got .* Use True, the name of a figure"),
        ([monitor(keep_best={"mode": "least"})], {}, r"keep_best.mode: got 'least'. Use max, min or auto"),
        ([{"type": "EarlyStopping", "mode": "up"}], {}, r"EarlyStopping.mode: got 'up'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(specs, settings, message):
    with pytest.raises(ConfigError, match=message):
        build_callbacks(specs, **settings)


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"min_delta": -1.0}, {"metric": 3}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ConfigError, match=f"callbacks.EarlyStopping.{next(iter(arguments))}"):
        EarlyStopping(**arguments)


def test_a_figure_that_no_evaluation_has_is_told_with_those_it_has(toy, tmp_path):
    with pytest.raises(ConfigError, match=r"keep_best.metric: got 'rouge'. The evaluation gives PPL\."):
        train(toy, tmp_path, [monitor(keep_best="rouge")])


def test_another_metric_of_a_resumed_run_starts_to_compare_anew(toy, tmp_path):
    train(toy, tmp_path, [monitor(keep_best=True)], max_steps=6)
    state, _ = train(toy, tmp_path, [monitor(keep_best={"mode": "max"})], resume="p_rank_0-1_6.ckpt")
    assert isinstance(CheckpointMonitor(keep_best="x").keep_best, Goal)
    assert state.best["step"] == 6  # 8.5, better than the 4.0 that was kept
