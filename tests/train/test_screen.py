"""The line of figures on the console, and what a run says at its end."""

import logging
import re
import sys

import pytest

from mindformers_glm.log import logger, set_up_logging
from mindformers_glm.train.callbacks import MFLossMonitor, build_callbacks
from mindformers_glm.train.callbacks.ending import Ending, best_evaluation
from mindformers_glm.train.curve import draw_curve
from mindformers_glm.train.plan import make_plan
from mindformers_glm.train.state import RunState
from mindformers_glm.train.step import StepResult


@pytest.fixture(autouse=True)
def handlers():
    kept, propagates = list(logger.handlers), logger.propagate
    yield
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    for handler in kept:
        logger.addHandler(handler)
    logger.propagate = propagates
    logger.setLevel(logging.NOTSET)


def played(monitor, folder, *, steps=3, loss=2.0, overflow=False, rank=0, tokens=2048, of=None):
    state = RunState(
        step=None, plan=make_plan(batches=of or steps), batch_size=8, output_dir=folder, rank=rank, rank_size=2
    )
    state.data_ranks, state.tokens = 2, tokens
    monitor.on_train_begin(state)
    for number in range(steps):
        state.done, state.first_step, state.step_seconds = number + 1, number == 0, 20.0 if number == 0 else 0.5
        state.result = StepResult(loss, overflow, 65536.0, 123456.0, 5e-5, False)
        state.shows_scale = True
        monitor.on_step_end(state)
    return state


def told(capsys, folder):
    return capsys.readouterr().out.splitlines(), (folder / "log/rank_0/info.log").read_text().splitlines()


def test_the_console_has_one_line_and_the_file_the_lines_of_mindformers(tmp_path, capsys):
    set_up_logging(tmp_path)
    played(MFLossMonitor(), tmp_path, of=100)
    console, file = told(capsys, tmp_path)
    assert len(console) == 3
    assert len(file) == 6
    assert all("{ Epoch:[  1/  1], step:[" in line or line.endswith("}") for line in file)
    assert console[0].startswith("step   1/100  loss  2.0000  lr 5.0e-05")
    assert console[0].endswith("eta       -")  # the first step compiles: it says nothing of speed
    assert re.search(r"  8\.2k tok/s    4\.1k tok/s/p    0\.50 s +[\d.]+ GB  eta 0:00:49$", console[1])
    assert len({line.index(" tok/s  ") for line in console}) == 1


def test_a_line_stays_within_120_columns(tmp_path, capsys):
    set_up_logging(tmp_path)
    played(MFLossMonitor(), tmp_path, loss=123.4567, tokens=10**9, of=1_000_000)
    played(MFLossMonitor(), tmp_path, overflow=True)
    console, _ = told(capsys, tmp_path)
    assert max(map(len, console)) <= 120
    assert "norm overflow" in console[-1]


def test_the_lines_of_mindformers_stay_available(tmp_path, capsys):
    set_up_logging(tmp_path)
    played(MFLossMonitor(screen="mindformers"), tmp_path)
    played(MFLossMonitor(), tmp_path, rank=1)
    console, file = told(capsys, tmp_path)
    assert console == file
    assert len(console) == 12


def test_lines_go_above_a_progress_bar(tmp_path, monkeypatch):
    from tqdm import tqdm

    found = []
    monkeypatch.setattr(tqdm, "write", lambda text: found.append(text))
    set_up_logging(tmp_path)
    bar, monitor = build_callbacks([])[0], MFLossMonitor()
    bar.force = True
    monkeypatch.setattr(sys, "stderr", open(tmp_path / "err", "w"))  # noqa: SIM115
    state = RunState(step=None, plan=make_plan(batches=3), output_dir=tmp_path)
    bar.on_train_begin(state)
    played(monitor, tmp_path)
    bar.close(state)
    assert len(found) == 3
    assert found[0].startswith("step 1/3")


def test_the_end_names_weights_and_commands(tmp_path):
    state = played(MFLossMonitor(), tmp_path)
    state.evaluations = [(1, {"loss": 3.0, "PPL": 20.1}), (2, {"loss": 2.5, "PPL": 12.2}), (3, {"loss": 2.75})]
    assert best_evaluation(state) == (2, "loss", 2.5)
    ending = Ending(config=lambda: tmp_path / "finetune_config.yaml")
    assert len(ending.lines(state)) == 2
    (tmp_path / "checkpoint_network").mkdir()
    (tmp_path / "finetune_config.yaml").write_text("seed: 0")
    text = "\n".join(ending.lines(state))
    for words in (
        "Trained 3 steps; the last loss is 2.0000",
        "loss 2.5000 after step 2",
        f"chat --model {tmp_path}",
        f"evaluate --config {tmp_path}/finetune_config.yaml --load_checkpoint {tmp_path}",
        "--resume_training true",
    ):
        assert words in text
    state.evaluations = [(1, {"rouge-1": 3.0}), (2, {"rouge-1": 4.0})]
    assert best_evaluation(state) == (2, "rouge-1", 4.0)


def test_the_end_says_the_speed_of_all_but_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("mindformers_glm.train.callbacks.ending.matrix_speed", lambda: 5e9)
    state = played(MFLossMonitor(), tmp_path)
    state.tokens, state.sequence_length, state.batch_size, state.data_ranks, state.rank_size = 4096, 512, 8, 2, 4
    state.work = lambda sequences, length: sequences * length * 1e6
    ending = Ending()
    for first, step_seconds in ((True, 100.0), (False, 3.0), (False, 5.0)):
        state.first_step, state.step_seconds, state.data_seconds = first, step_seconds, 0.0
        ending.on_step_end(state)
    assert ending.lines(state)[1] == "  speed:           512 tokens/s/p, 1.00 samples/s/p, 4000.0 ms per step"
    ending.on_step_end(state)  # 13 seconds: long enough for MFU
    (line,) = (line for line in ending.lines(state) if "speed" in line)
    assert line.endswith("4333.3 ms per step, MFU 9.5 % of 5 GFLOP/s")  # 16 x 512 x 1e6 / 4.3333 / 4 ranks / 5e9


def test_the_curve_has_norm_and_evaluation(tmp_path):
    records = [
        {"step": n, "loss": 3.0 / n, "learning_rate": 0.1, "grad_norm": None if n == 2 else 1.0} for n in (1, 2, 3)
    ]
    path = draw_curve(records, tmp_path / "curve.png", [(2, {"loss": 1.0}), (3, {"rouge-1": 2.0})])
    assert path.read_bytes().startswith(b"\x89PNG")
