"""A training process that is interrupted by signals, or whose terminal goes away, saves and says how it ended.

One is started as a user does, one in a terminal of its own; the others are forked from a process that has imported
MindSpore.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import forked
import pytest

pytestmark = pytest.mark.usefixtures("a_terminal")
THIRD_STEP = "step   3/300"
SCRIPT = """
    import os, signal, sys
    os.dup2(1, 2)
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from conftest import Tokens, make_step
    from mindformers_glm.errors import UserError
    from mindformers_glm.log import set_up_logging
    from mindformers_glm.train.callbacks import Callback, CheckpointMonitor, MFLossMonitor
    from mindformers_glm.train.fit import fit
    from mindformers_glm.train.plan import make_plan
    from mindformers_glm.train.state import RunState
    import mindspore as ms

    ms.set_context(mode=ms.{mode})
    taken, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)

    class Waiting(Callback):
        def on_step_end(self, state):
            if state.done == 3:
                os.read(taken, 1)

    class Stuck(Callback):
        def on_interrupt(self, state):
            while True:
                signal.pause()

    data, folder = Tokens(), Path({folder!r})
    set_up_logging(folder)
    state = RunState(step=make_step(), plan=make_plan(batches=6, epochs=50), batch_size=4, output_dir=folder)
    extra = [Stuck()] if {stuck} else []
    try:
        fit(state, data, lambda step: 0.01, [MFLossMonitor(), Waiting(), CheckpointMonitor(prefix="t",
            save_checkpoint_steps=1000), *extra])
    except UserError as error:
        print("error:", error, flush=True)
        sys.exit(error.exit_status)
"""


def write_script(folder: Path, *, stuck: bool = False, mode: str = "PYNATIVE_MODE") -> Path:
    """A run of 300 steps; a graph need be compiled once among these tests."""
    script = folder / "train_it.py"
    tests = str(Path(__file__).parent)
    script.write_text(textwrap.dedent(SCRIPT).format(tests=tests, folder=str(folder / "out"), stuck=stuck, mode=mode))
    return script


def reach_third_step(process: subprocess.Popen | forked.Child) -> None:
    for line in process.stdout:
        if THIRD_STEP in line:
            return
    raise AssertionError(f"the run ended before its third step, with status {process.wait()}")


def test_ctrl_c_in_a_process_saves_and_fails(tmp_path):
    script = write_script(tmp_path, mode="GRAPH_MODE")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    reach_third_step(process)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(timeout=180) == 1
    assert "error: Interrupted after step" in rest
    assert list((tmp_path / "out/checkpoint/rank_0").glob("t_rank_0-1_*.ckpt"))


def test_a_terminal_that_is_closed_twice_and_a_signal_beside_it_let_the_run_save(tmp_path):
    """What a closing terminal and a system that ends a session send; only a second Ctrl-C or SIGTERM insists."""
    process = forked.Child([write_script(tmp_path)])
    reach_third_step(process)
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(timeout=180) == 1, rest
    assert rest.count("Interrupted: finishing this step") == 1
    assert list((tmp_path / "out/checkpoint/rank_0").glob("t_rank_0-1_*.ckpt"))


def test_a_run_in_a_terminal_that_goes_away_saves(tmp_path, monkeypatch):
    """The terminal cannot be written to any more, and the kernel sends SIGHUP."""
    script = write_script(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, str(script)])
    said = b""
    while THIRD_STEP.encode() not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status), said.decode()[-2000:]
    assert list((tmp_path / "out/checkpoint/rank_0").glob("t_rank_0-1_*.ckpt"))


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    process = forked.Child([write_script(tmp_path, stuck=True)])  # it would hang for ever in a callback
    reach_third_step(process)
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if line.startswith("Interrupted: finishing this step"):
            break
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(timeout=180) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
