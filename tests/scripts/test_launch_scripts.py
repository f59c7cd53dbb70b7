"""The launch scripts start what is documented, report every failure, and leave no process behind."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from waiting import until

pytestmark = pytest.mark.usefixtures("a_terminal")


def test_four_arguments_are_one_server(job):
    table = {
        **job.table,
        "server_list": [{**job.table["server_list"][0], "device": job.table["server_list"][0]["device"][4:6]}],
    }
    for rank, entry in enumerate(table["server_list"][0]["device"]):
        entry = entry.copy()
        entry["rank_id"] = str(rank)
        table["server_list"][0]["device"][rank] = entry
    (job.folder / "two.json").write_text(json.dumps(table))
    done = job.run("run_distribute.sh", "two.json", "npu.yaml", "[4,6]", "finetune")
    assert done.returncode == 0, done.stderr
    started = job.started()
    assert {rank: one["DEVICE_ID"] for rank, one in started.items()} == {0: "4", 1: "5"}
    first = started[0]
    assert first["RANK_SIZE"] == "2" and first["RANK_TABLE_FILE"] == str(job.folder / "two.json")
    assert first["argv"] == [
        *("--config", str(job.folder / "npu.yaml"), "--use_parallel", "True", "--run_mode", "finetune"),
        *("--output_dir", str(job.folder / "output")),
    ]
    assert "hello from rank 0" in done.stdout
    for rank in (0, 1):
        assert f"hello from rank {rank}" in (job.folder / f"output/log/rank_{rank}/mindformer.log").read_text()


def test_five_arguments_are_several_servers(job):
    content = json.loads(json.dumps(job.table))
    second = json.loads(json.dumps(content["server_list"][0]))
    second["server_id"] = "10.0.0.2"
    for number, entry in enumerate(second["device"]):
        entry.update(rank_id=str(8 + number), device_ip=f"192.{number % 4 + 1}.27.{16 + number // 4}")
    content["server_list"].append(second)
    content["server_count"] = "2"
    (job.folder / "sixteen.json").write_text(json.dumps(content))
    done = job.run("run_distribute.sh", "sixteen.json", "npu.yaml", "[8,16]", "train", "16")
    assert done.returncode == 0, done.stderr
    assert {rank: one["DEVICE_ID"] for rank, one in job.started().items()} == {8 + n: str(n) for n in range(8)}
    assert job.started()[8]["RANK_SIZE"] == "16"


def test_twelve_servers_as_documents_write_them(job):
    """[88,96] of 8*12 ranks with a rank table, and the twelfth node of msrun."""
    content = json.loads(json.dumps(job.table))
    content["server_list"] = [json.loads(json.dumps(content["server_list"][0])) for _ in range(12)]
    for number, server in enumerate(content["server_list"]):
        server["server_id"] = f"10.0.0.{number + 1}"
        for place, entry in enumerate(server["device"]):
            rank = 8 * number + place
            entry.update(rank_id=str(rank), device_ip=f"192.{number + 1}.27.{6 + place}")
    content["server_count"] = "12"
    (job.folder / "twelve.json").write_text(json.dumps(content))
    done = job.run("run_distribute.sh", "twelve.json", "npu.yaml", "[88,96]", "train", "8*12")
    assert done.returncode == 0, done.stderr
    assert {rank: one["DEVICE_ID"] for rank, one in job.started().items()} == {88 + n: str(n) for n in range(8)}
    assert {one["RANK_SIZE"] for one in job.started().values()} == {"96"}
    wrong = job.run("msrun_launcher.sh", "x", "8*12", "8", "10.0.0.1", "8118", "12", "logs", "True", "60")
    assert wrong.returncode == 2 and "WORKER_NUM 96, LOCAL_WORKER 8 and NODE_RANK 12" in wrong.stderr


PROMPT = "[Round 1]\n\n问：你好 \"$(touch evil)\" `touch evil` 'x' ; touch evil *\n\n答："


@pytest.mark.parametrize(("extra", "prompt"), [(("8",), PROMPT), ((), PROMPT), ((), "--use_parallel"), ((), "")])
def test_prompts_arrive_as_they_are(job, extra, prompt):
    done = job.run("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "predict", *extra, prompt)
    assert done.returncode == 0, done.stderr
    started = job.started()
    assert len(started) == 8
    assert started[7]["argv"][-1] == f"--predict_data={prompt}"
    assert started[7]["cwd"] == str(job.folder)
    assert not (job.folder / "evil").exists()


def test_a_rank_that_dies_ends_the_job_and_is_named(job):
    arguments = ("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train")
    process = job.start(*arguments, FAKE_WAITS="1", FAKE_FAILS="3")
    job.wait_for_ranks(8)
    done = job.fail(process)
    assert done.returncode == 1
    assert "rank 3 ended with exit status 1" in done.stderr
    assert "ValueError: this rank is tired" in done.stderr
    assert not job.survivors()


@pytest.mark.parametrize(
    ("codes", "first"),
    [
        ({0: 1, 1: -9}, (1, 137)),  # the neighbour of a killed rank fails too, before anybody looks
        ({0: -9, 1: 1}, (0, 137)),
        ({0: None, 1: 3, 2: 4}, (1, 3)),
        ({0: 0, 1: None}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_a_killed_rank_is_named_before_its_neighbours(root, monkeypatch, codes, first):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    supervise = importlib.import_module("supervise")
    assert supervise.first_of(codes) == first


def test_ctrl_c_lets_every_rank_save(job):
    process = job.start("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", FAKE_WAITS="1")
    job.wait_for_ranks(8)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(list(job.folder.glob("saved_*"))) == 8
    assert not job.survivors()


def test_killing_the_launcher_leaves_no_rank(job):
    process = job.start("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", FAKE_WAITS="1")
    job.wait_for_ranks(8)
    process.kill()
    process.communicate(timeout=30)
    until(lambda: not job.survivors())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("table.json", "npu.yaml", "[0,8]"), "RANK_TABLE_FILE CONFIG_PATH DEVICE_RANGE RUN_STATUS"),
        (("nowhere.json", "npu.yaml", "[0,8]", "train"), "RANK_TABLE_FILE: got 'nowhere.json'"),
        (("table.json", "nowhere.yaml", "[0,8]", "train"), "CONFIG_PATH"),
        (("table.json", "npu.yaml", "0-8", "train"), "DEVICE_RANGE"),
        (("table.json", "npu.yaml", "[8,8]", "train"), "smaller than the end"),
        (("table.json", "npu.yaml", "[0,8]", "tune"), "RUN_STATUS"),
        (("table.json", "npu.yaml", "[0,8]", "train", "8*12"), "the table has 8, the job 96"),
        (("table.json", "npu.yaml", "[0,8]", "train", " 08 * 012 "), "the table has 8, the job 96"),
        (("table.json", "npu.yaml", "[0,8]", "train", "8**12"), "RANK_SIZE: got '8**12'"),
        (("table.json", "npu.yaml", "[0,8]", "train", "8*x"), "RANK_SIZE: got '8*x'"),
        (("table.json", "npu.yaml", "[0,8]", "train", "99999*99999"), "RANK_SIZE: got '99999*99999'"),
        (("table.json", "npu.yaml", "[0,8]", "train", "9" * 30), "Use at most 1000000"),
        (("table.json", "npu.yaml", "[0,8]", "train", "0"), "RANK_SIZE: got 0"),
        (("table.json", "npu.yaml", "[0,99999999999999999999]", "train"), "[0,99999999999999999999]"),
        (("table.json", "npu.yaml", "[99999999999999999999,99999999999999999999]", "train"), "Use at most"),
        (("table.json", "npu.yaml", "[0,1025]", "train"), "at most 1024 processes"),
        (("table.json", "npu.yaml", "[0,8]", "train", "4"), "RANK_SIZE: got 4"),
        (("table.json", "npu.yaml", "[0,8]", "train", "8", "text"), "for predict only"),
        (("table.json", "npu.yaml", "[0,4]", "train"), "the table has 8, the job 4"),
    ],
)
def test_wrong_arguments_start_nothing(job, arguments, said):
    done = job.run("run_distribute.sh", *arguments)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not job.started()


def test_standalone_places(job, root):
    environment = {**job.environment}
    environment.pop("LOCAL_DEFAULT_PATH")
    before = set((root / "scripts").iterdir())
    Job = type(job)
    Job.environment = environment
    done = job.run("run_standalone.sh", "cpu.yaml", "2", "finetune", "--", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    (one,) = job.started().values()
    folder = root / "scripts/mf_standalone"
    assert one["argv"] == [
        *("--config", str(job.folder / "cpu.yaml"), "--use_parallel", "False", "--run_mode", "finetune"),
        *("--device_id", "2", "--output_dir", str(folder / "output"), "--epochs", "1"),
    ]
    assert one["DEVICE_ID"] == "2" and one["RANK_SIZE"] == "1"
    assert "hello from rank 0" in (folder / "mindformer.log").read_text()
    assert {path.name for path in set((root / "scripts").iterdir()) - before} <= {"mf_standalone"}
    assert {path.name for path in folder.iterdir()} == {"mindformer.log", "env.log", "output"}


@pytest.mark.dist
def test_results_lie_where_the_script_was_called(job, root):
    """Nothing is written below the checkout."""
    job.environment = {name: value for name, value in job.environment.items() if name != "LOCAL_DEFAULT_PATH"}
    before = {path.name for path in root.iterdir()}
    done = job.run("run_distribute.sh", "none", "cpu.yaml", "[0,1]", "train")
    assert done.returncode == 0, done.stderr
    assert job.started()[0]["argv"][-2:] == ["--output_dir", str(job.folder / "output")]
    assert (job.folder / "output/log/rank_0/mindformer.log").is_file()
    assert {path.name for path in root.iterdir()} == before


def test_a_wrong_time_to_stop_is_named(job):
    done = job.run("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", MF_STOP_SECONDS="soon")
    assert done.returncode == 1 and "MF_STOP_SECONDS: got 'soon'" in done.stderr
    assert not job.started()


def is_pending(pid, number):
    """Whether a process has been sent a signal that has not come to it yet."""
    with contextlib.suppress(OSError):
        found = re.findall(r"^(?:Sig|Shd)Pnd:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in found)
    return False


def test_a_closed_terminal_lets_every_rank_save(job):
    """SIGHUP comes twice, and SIGTERM beside it: none of them insists."""
    process = job.start("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", FAKE_WAITS="1")
    job.wait_for_ranks(8)
    process.stdout.close()  # what the supervisor writes goes nowhere
    process.stderr.close()
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
        until(lambda number=number: not is_pending(process.pid, number))
    assert process.wait(timeout=30) in (128 + signal.SIGHUP, 128 + signal.SIGTERM)
    assert len(list(job.folder.glob("saved_*"))) == 8
    assert not job.survivors()


def test_under_nohup_a_closed_terminal_means_nothing(job, root):
    command = ["nohup", "bash", str(root / "scripts/run_distribute.sh"), "table.json", "npu.yaml", "[0,8]", "train"]
    process = subprocess.Popen(
        command,
        cwd=job.folder,
        env={**job.environment, "FAKE_WAITS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    job.wait_for_ranks(8)
    process.send_signal(signal.SIGHUP)
    with open(job.folder / "release", "wb", buffering=0) as pipe:
        pipe.write(b"x" * 8)  # the ranks may end
        process.communicate(timeout=60)
    assert process.returncode == 0 and not list(job.folder.glob("saved_*"))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("cpu.yaml", "0"),
        ("cpu.yaml", "0", "train", "more"),
        ("no.yaml", "0", "train"),
        ("cpu.yaml", "x", "train"),
        ("cpu.yaml", "9" * 20, "train"),
    ],
)
def test_standalone_refuses(job, arguments):
    assert job.run("run_standalone.sh", *arguments).returncode == 2


def test_standalone_gives_the_exit_status(job):
    done = job.run("run_standalone.sh", "cpu.yaml", "0", "train", FAKE_FAILS="0", LOG_MF_PATH=str(job.folder / "logs"))
    assert done.returncode == 1 and "this rank is tired" in done.stderr
    assert (job.folder / "logs/rank_0/mindformer.log").is_file()
