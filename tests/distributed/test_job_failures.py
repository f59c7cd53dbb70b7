"""Whole jobs through scripts/run_distribute.sh: killed at any moment, they go on, on as many processes or fewer."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt

pytestmark = [pytest.mark.dist, pytest.mark.slow]
SMALL = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4, "kv_channels": 16}
STEPS = 12


@pytest.fixture
def job(root, tmp_path):
    """Starts a job of a small network in `folder`, with any division."""
    words = ["类型", "裤", "颜色", "黑色", "上衣", "显瘦", "风格", "简约"]
    rng = np.random.default_rng(0)
    rows = [
        {"content": "*".join(rng.choice(words, 4)), "summary": "".join(rng.choice(words, 12))} for _ in range(STEPS * 4)
    ]
    data = tmp_path / "train.json"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def start(folder, *, dp=1, tp=1, pp=1, zero=None, divided=False, resume=False):
        settings = {
            **{f"model.model_config.{name}": value for name, value in SMALL.items()},
            "model.model_config.seq_length": 40,
            "train_dataset.max_source_length": 15,
            "train_dataset.max_target_length": 24,
            "runner_config.sink_mode": False,
            "parallel.parallel_mode": 1,
            "parallel.enable_parallel_optimizer": divided,
            "parallel_config.data_parallel": dp,
            "parallel_config.model_parallel": tp,
            "parallel_config.pipeline_stage": pp,
            "parallel_config.micro_batch_num": pp,
            **({} if zero is None else {"parallel.zero_level": zero}),
            "allow_random_weights": True,
            "load_checkpoint": "''",
        }
        options = [f"{name}={value}" for name, value in settings.items()]
        command = ["bash", str(root / "scripts/run_distribute.sh"), "none"]
        command += [str(root / "configs/tiny/run_glm2_tiny_finetune.yaml"), f"[0,{dp * tp * pp}]", "train", "--"]
        command += ["--train_dataset_dir", str(data), "--output_dir", str(folder), "--batch_size", str(4 // (dp * pp))]
        command += ["--resume_training", "true"] if resume else []
        command += ["--options", *options]
        command += [
            "--callbacks",
            json.dumps([{"type": "CheckpointMonitor", "prefix": "g", "save_checkpoint_steps": 2}]),
        ]
        environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "GLOG_v": "3"}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def finish(process, status=0):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == status, output[-4000:]
    return output


def losses(folder):
    return {
        row["step"]: row["loss"] for row in map(json.loads, (folder / "loss_history.jsonl").read_text().splitlines())
    }


def processes_of(folder, role):
    """Process numbers of a job by rank ("MS_WORKER"), or of its scheduler ("MS_SCHED")."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command and b"run_mindformer.py" in command and b"MS_ROLE=" + role in variables:
                rank = next((one[11:] for one in variables if one.startswith(b"MS_NODE_ID=")), b"0")
                found[int(rank)] = int(entry.name)
    return found


def orphans(folder):
    """Processes of this machine that carry the folder in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
    return found


def kill_one(process, folder, victim, steps):
    """Kills rank `victim`, or the scheduler, with -9 once it has made some steps; seconds until the job has ended."""

    def came() -> bool:
        assert process.poll() is None, process.stdout.read()[-3000:]
        return (folder / "loss_history.jsonl").exists() and len(losses(folder)) >= steps

    until(came, seconds=600)
    role = b"MS_SCHED" if victim == "scheduler" else b"MS_WORKER"
    os.kill(processes_of(folder, role)[0 if victim == "scheduler" else victim], signal.SIGKILL)
    begin = time.monotonic()
    output = finish(process, 128 + signal.SIGKILL)
    seconds = time.monotonic() - begin
    who = "the scheduler" if victim == "scheduler" else f"rank {victim}"
    assert f"{who} ended with exit status 137" in output, output[-3000:]
    assert not orphans(folder)
    return seconds


@pytest.mark.parametrize(
    "division",
    [{"tp": 2}, {"dp": 2, "divided": True}, {"pp": 2}, {"dp": 2, "zero": 3}],
    ids=["tensor", "divided", "stages", "weights"],
)
def test_a_killed_job_goes_on(job, tmp_path, division):
    straight = tmp_path / "straight"
    finish(job(straight))
    expected = losses(straight)
    assert len(expected) == STEPS

    killed = tmp_path / "killed"
    assert kill_one(job(killed, **division), killed, 1, 5) < 60
    assert len(losses(killed)) < STEPS
    alone = tmp_path / "alone"
    shutil.copytree(killed, alone, symlinks=True)

    output = finish(job(killed, **division, resume=True))
    assert "Resuming from" in output
    finish(job(alone, resume=True))
    for folder in (killed, alone):
        found = losses(folder)
        assert set(found) == set(expected)
        for step, loss in expected.items():
            assert found[step] == pytest.approx(loss, rel=1e-5), (folder.name, step)


@pytest.mark.parametrize("number", range(10))
def test_a_job_killed_at_random_ends_with_the_weights_of_one_left_alone(job, tmp_path, tmp_path_factory, number):
    """Two processes; a random one of rank 0, rank 1 and the scheduler dies after a random step. Prints a JSON line."""
    chance = random.Random(100 + number)
    division = ({"tp": 2}, {"dp": 2, "divided": True}, {"pp": 2})[number % 3]
    victim, steps = chance.choice([0, 1, "scheduler"]), chance.randrange(1, STEPS - 1)
    straight = tmp_path_factory.getbasetemp() / f"straight-{number % 3}"
    if not straight.exists():
        finish(job(straight, **division))
    killed = tmp_path / "killed"
    seconds = kill_one(job(killed, **division), killed, victim, steps)
    finish(job(killed, **division, resume=True))
    assert not orphans(killed)
    assert losses(killed) == losses(straight)
    for rank in range(2):
        name = f"checkpoint_network/rank_{rank}/g_rank_{rank}-network.ckpt"
        wanted, got = open_ckpt(straight / name), open_ckpt(killed / name)
        assert list(wanted.entries) == list(got.entries)
        for tensor in wanted.entries:
            assert got.read_bits(tensor).tobytes() == wanted.read_bits(tensor).tobytes(), (rank, tensor)
    print(json.dumps({"victim": victim, "after_step": steps, "seconds_to_the_end": round(seconds, 1)}))
