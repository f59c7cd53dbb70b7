"""What the launch scripts start through msrun: ranks on CPU with their scheduler, and how such a job ends."""

from __future__ import annotations

import os
import signal

import pytest


@pytest.mark.dist
def test_cpu_goes_through_msrun(job):
    done = job.run("run_distribute.sh", "none", "npu.yaml", "[0,2]", "train", "--", "--device_target", "CPU")
    assert done.returncode == 0, done.stderr
    started = job.started()
    assert [one["MS_ROLE"] for one in started.values()] == ["MS_WORKER"] * 2
    assert started[1]["RANK_TABLE_FILE"] is None and started[1]["argv"][-2:] == ["--device_target", "CPU"]
    assert "hello from rank 1" in (job.folder / "output/log/rank_1/mindformer.log").read_text()
    assert not job.survivors()


@pytest.mark.dist
def test_msrun_failure_is_quick_and_named(job):
    process = job.start("run_distribute.sh", "none", "cpu.yaml", "[0,2]", "train", FAKE_WAITS="1", FAKE_FAILS="1")
    job.wait_for_msrun(process, 2)
    done = job.fail(process)
    assert done.returncode == 1
    assert "rank 1 ended with exit status 1" in done.stderr and "this rank is tired" in done.stderr
    assert not job.survivors()


@pytest.mark.dist
def test_a_killed_scheduler_is_named_as_the_scheduler(job):
    process = job.start("run_distribute.sh", "none", "cpu.yaml", "[0,2]", "train", FAKE_WAITS="1")
    os.kill(job.wait_for_msrun(process, 2), signal.SIGKILL)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 137
    assert "the scheduler ended with exit status 137; the job is ended. Log:" in said and "scheduler.log" in said
    assert "rank" not in said.partition("the scheduler ended")[2].splitlines()[0]
    assert not job.survivors()


@pytest.mark.dist
def test_ctrl_c_through_msrun_lets_every_rank_save(job):
    process = job.start("run_distribute.sh", "none", "cpu.yaml", "[0,2]", "train", FAKE_WAITS="1")
    job.wait_for_msrun(process, 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == 143
    assert len(list(job.folder.glob("saved_*"))) == 2
    assert not job.survivors()


@pytest.mark.dist
def test_msrun_launcher(job):
    order = "run_mindformer.py --config cpu.yaml --run_mode predict --predict_data \"a 'b' $(touch evil)\""
    done = job.run("msrun_launcher.sh", order, "2", "18231", "logs", "True", "60", MF_LOG_SUFFIX="x")
    assert done.returncode == 0, done.stderr
    argv = job.started()[1]["argv"]
    assert argv == ["--config", "cpu.yaml", "--run_mode", "predict", "--predict_data", "a 'b' $(touch evil)"]
    assert not (job.folder / "evil").exists()
    assert "hello from rank 1" in (job.folder / "logs_x/worker_1.log").read_text()
    assert job.started()[0]["LOG_MF_PATH"] == str(job.folder / "output/log_x")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("x", "2", "3"),
        ("x", "two"),
        ("x", "2", "1", "l", "maybe", "1"),
        ("x 'y", "2"),
        ("x", "9" * 20),
        ("x", "2000"),
        ("x", "2", "99999", "l", "True", "1"),
    ],
)
def test_msrun_launcher_refuses(job, arguments):
    assert job.run("msrun_launcher.sh", *arguments).returncode == 2
