"""The command killed at random moments, and two real processes: the file of one undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.dist]
KILLS = 5


def command(model, data, out, *more):
    words = ["--model", model, "--tasks", "ceval-valid", "--data_dir", data, "--limit", "6", "--num_fewshot", "1"]
    return [sys.executable, "-m", "mindformers_glm", "evaluate", *map(str, [*words, "--output_dir", out, *more])]


@pytest.fixture(scope="module")
def setting(root, golden, shared, glm2_vocab, tmp_path_factory):
    """Words of the command, its environment, and the samples of an undisturbed run."""
    folder = tmp_path_factory.mktemp("evaluation")
    environment = {
        **os.environ, "PYTHONPATH": str(root), "GLOG_v": "3", "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    given = (golden / "evaluation/model_glm2", shared / "data/eval/ceval")
    more = ("--tokenizer", glm2_vocab, "--batch_size", "4")
    done = subprocess.run(
        command(*given, folder / "whole", *more), env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return given, more, environment, (folder / "whole/samples.jsonl").read_bytes()


def test_killed_five_times_and_resumed(setting, tmp_path):
    given, more, environment, whole = setting
    journal, chance, kept = tmp_path / "o/.rows-ceval-valid.jsonl", random.Random(20261128), [0]
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(*given, tmp_path / "o", *more),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wanted = kept[-1] + chance.randint(1, 40)
        deadline = time.monotonic() + 600
        while process.poll() is None and lines_of(journal) <= wanted and time.monotonic() < deadline:
            time.sleep(chance.uniform(0.0, 0.05))  # a moment anywhere, also inside of a write
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "o/results.json").exists()
        kept.append(lines_of(journal))
    assert kept == sorted(kept) and kept[-1] > 5, kept
    done = subprocess.run(
        command(*given, tmp_path / "o", *more), env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o/samples.jsonl").read_bytes() == whole
    assert not journal.exists()


@pytest.mark.parametrize("start", ["dp_size", "msrun"])
def test_two_processes_write_the_file_of_one(setting, tmp_path, start):
    given, more, environment, whole = setting
    words = command(*given, tmp_path / "o", *more)
    if start == "dp_size":
        words += ["--dp_size", "2"]
    else:
        launcher = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"]
        words = [*launcher, "--master_port=18765", f"--log_dir={tmp_path}/log", "--join=True", "python", *words[1:]]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "o/samples.jsonl").read_bytes() == whole
    assert json.loads((tmp_path / "o/results.json").read_text())["groups"]["ceval-valid"]["acc,none"] > 0
    assert not list((tmp_path / "o").glob(".rows*"))


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0
