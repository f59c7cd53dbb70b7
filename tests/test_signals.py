"""Ctrl-C in commands and in model.generate, with MindSpore's graphs running: an orderly end, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mindformers_glm.config.names import ASSETS
from mindformers_glm.signals import terminated_as_interrupted

ROOT = Path(__file__).resolve().parents[1]
has_weights = pytest.mark.skipif(not (ASSETS / "glm2_tiny/model.safetensors").is_file(), reason="glm2_tiny is missing")
GENERATE = """
import sys
from mindformers_glm import AutoModel
model = AutoModel.from_pretrained("glm2_tiny")
print("Loaded", flush=True)
try:
    while True:
        model.generate([[10, 20, 30]], max_length=256)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.fixture(autouse=True)
def default_action():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_ctrl_c_inside_and_itself_outside():
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_users_own_handler_stays():
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    with terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [1]


def test_another_thread_changes_nothing():
    inside = []

    def work():
        with terminated_as_interrupted():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [signal.SIG_DFL]


def interrupted(folder: Path, command: list[str], seconds: float) -> tuple[int, str]:
    """Status and output of a command that gets Ctrl-C so long after it has loaded its weights."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLM_KERNELS": "off"}  # graphs, whose handler is the trouble
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    said = ""
    for line in process.stdout:
        said += line
        if "Loaded" in line:
            break
    threading.Event().wait(seconds)
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    return process.returncode, said + rest


@pytest.mark.slow
@has_weights
@pytest.mark.parametrize("seconds", [0.5, 4.0])  # while graphs are compiled, and while they run
def test_predict_ends_with_one_line_and_leaves_files_whole(tmp_path, seconds):
    (tmp_path / "prompts.txt").write_text("类型#裙*风格#文艺\n" * 5000, encoding="utf-8")
    result = tmp_path / "text_generation_result.txt"
    result.write_text("of an earlier run")
    command = [str(ROOT / "run_mindformer.py"), "--config", str(ROOT / "configs/tiny/run_glm2_tiny.yaml")]
    command += ["--run_mode", "predict", "--predict_data", "prompts.txt"]
    status, said = interrupted(tmp_path, command, seconds)
    assert status == 130, said[-2000:]
    assert said.count("stopped by Ctrl-C\n") == 1
    assert "Traceback" not in said
    assert result.read_text() == "of an earlier run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "prompts.txt", "text_generation_result.txt"]


@pytest.mark.slow
@has_weights
def test_ctrl_c_in_generate_is_keyboard_interrupt(tmp_path):
    status, said = interrupted(tmp_path, ["-c", GENERATE], 4.0)
    assert status == 7, said[-2000:]
