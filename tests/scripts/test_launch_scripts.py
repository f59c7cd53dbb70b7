"""The launch scripts start what is documented, report every failure, and leave no process behind."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TABLE = {
    "version": "1.0",
    "server_count": "1",
    "server_list": [
        {
            "server_id": "10.0.0.1",
            "device": [
                {"device_id": str(n), "device_ip": f"192.{n % 4 + 1}.27.{6 + n // 4}", "rank_id": str(n)}
                for n in range(8)
            ],
            "host_nic_ip": "reserve",
        }
    ],
    "status": "completed",
}
ENTRY = """
import json, os, signal, sys, time
if os.environ.get("MS_ROLE") == "MS_SCHED":
    if os.environ.get("FAKE_SLEEP"): time.sleep(100)
    sys.exit(0)
rank = int(os.environ["RANK_ID"])
names = ("RANK_ID", "RANK_SIZE", "DEVICE_ID", "RANK_TABLE_FILE", "LOG_MF_PATH", "MS_ROLE")
with open(os.path.join(os.environ["FAKE_OUT"], f"started_{rank}.json.part"), "w") as stream:
    json.dump({"argv": sys.argv[1:], "cwd": os.getcwd(), **{n: os.environ.get(n) for n in names}}, stream)
os.rename(stream.name, stream.name[:-5])
print(f"hello from rank {rank}", flush=True)
end = time.monotonic() + (float(os.environ.get("FAKE_SLEEP", "0")) if str(rank) != os.environ.get("FAKE_FAILS") else 1)
try:
    while time.monotonic() < end and not os.path.exists(os.path.join(os.environ["FAKE_OUT"], "release")):
        time.sleep(0.05)
except KeyboardInterrupt:
    time.sleep(2)  # saving takes its time
    open(os.path.join(os.environ["FAKE_OUT"], f"saved_{rank}"), "w").close()
    sys.exit(1)
if str(rank) == os.environ.get("FAKE_FAILS"):
    sys.exit("ValueError: this rank is tired")
"""


@pytest.fixture
def job(root, tmp_path):
    """A folder with a configuration, a rank table and a stand-in for run_mindformer.py; runs a script in it."""
    (tmp_path / "entry.py").write_text(ENTRY)
    (tmp_path / "table.json").write_text(json.dumps(TABLE))
    (tmp_path / "cpu.yaml").write_text("context:\n  device_target: CPU\noutput_dir: ./output # the default\n")
    (tmp_path / "npu.yaml").write_text("base_config: cpu.yaml\ncontext:\n  device_target: 'Ascend' # comment\n")

    class Job:
        folder = tmp_path
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHON": sys.executable,
            "MF_ENTRY": str(tmp_path / "entry.py"),
            "FAKE_OUT": str(tmp_path),
            "LOCAL_DEFAULT_PATH": str(tmp_path / "output"),
            "MF_STOP_SECONDS": "20",
        }

        def start(self, script, *arguments, **variables):
            return subprocess.Popen(
                ["bash", str(root / "scripts" / script), *map(str, arguments)],
                cwd=tmp_path,
                env={**self.environment, **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        def run(self, *arguments, **variables):
            process = self.start(*arguments, **variables)
            out, err = process.communicate(timeout=90)
            return subprocess.CompletedProcess(arguments, process.returncode, out, err)

        def started(self):
            return {int(p.stem[8:]): json.loads(p.read_text()) for p in sorted(tmp_path.glob("started_*.json"))}

        def wait_for_ranks(self, count):
            deadline = time.monotonic() + 60
            while len(self.started()) < count:
                assert time.monotonic() < deadline, "the ranks did not start"
                time.sleep(0.1)

        def survivors(self):
            """Processes that carry this test's folder in their environment."""
            found = []
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if entry.name.isdigit() and str(tmp_path).encode() in (entry / "environ").read_bytes():
                        found.append((entry.name, (entry / "cmdline").read_bytes()))
            return found

    yield Job()
    for pid, _ in Job().survivors():
        os.kill(int(pid), signal.SIGKILL)


def test_four_arguments_are_one_server(job):
    table = {**TABLE, "server_list": [{**TABLE["server_list"][0], "device": TABLE["server_list"][0]["device"][4:6]}]}
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
    content = json.loads(json.dumps(TABLE))
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
    content = json.loads(json.dumps(TABLE))
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
    begin = time.monotonic()
    done = job.run("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", FAKE_SLEEP="60", FAKE_FAILS="3")
    assert time.monotonic() - begin < 30
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
    process = job.start("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", FAKE_SLEEP="60")
    job.wait_for_ranks(8)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(list(job.folder.glob("saved_*"))) == 8
    assert not job.survivors()


def test_killing_the_launcher_leaves_no_rank(job):
    process = job.start("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", FAKE_SLEEP="60")
    job.wait_for_ranks(8)
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while job.survivors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not job.survivors()


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


def test_a_closed_terminal_lets_every_rank_save(job):
    """SIGHUP comes twice, and SIGTERM beside it: none of them insists."""
    process = job.start("run_distribute.sh", "table.json", "npu.yaml", "[0,8]", "train", FAKE_SLEEP="60")
    job.wait_for_ranks(8)
    process.stdout.close()  # what the supervisor writes goes nowhere
    process.stderr.close()
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
        time.sleep(0.3)
    assert process.wait(timeout=30) in (128 + signal.SIGHUP, 128 + signal.SIGTERM)
    assert len(list(job.folder.glob("saved_*"))) == 8
    assert not job.survivors()


def test_under_nohup_a_closed_terminal_means_nothing(job, root):
    command = ["nohup", "bash", str(root / "scripts/run_distribute.sh"), "table.json", "npu.yaml", "[0,8]", "train"]
    process = subprocess.Popen(
        command,
        cwd=job.folder,
        env={**job.environment, "FAKE_SLEEP": "60"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    job.wait_for_ranks(8)
    process.send_signal(signal.SIGHUP)
    (job.folder / "release").touch()  # the ranks may end
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
    begin = time.monotonic()
    done = job.run("run_distribute.sh", "none", "cpu.yaml", "[0,2]", "train", FAKE_SLEEP="60", FAKE_FAILS="1")
    assert time.monotonic() - begin < 40
    assert done.returncode == 1
    assert "rank 1 ended with exit status 1" in done.stderr and "this rank is tired" in done.stderr
    assert not job.survivors()


@pytest.mark.dist
def test_a_killed_scheduler_is_named_as_the_scheduler(job):
    process = job.start("run_distribute.sh", "none", "cpu.yaml", "[0,2]", "train", FAKE_SLEEP="60")
    job.wait_for_ranks(2)
    time.sleep(1)  # so that the supervisor has seen it
    (scheduler,) = [
        pid for pid, _ in job.survivors() if b"MS_ROLE=MS_SCHED" in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    os.kill(int(scheduler), signal.SIGKILL)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 137
    assert "the scheduler ended with exit status 137; the job is ended. Log:" in said and "scheduler.log" in said
    assert "rank" not in said.partition("the scheduler ended")[2].splitlines()[0]
    assert not job.survivors()


@pytest.mark.dist
def test_ctrl_c_through_msrun_lets_every_rank_save(job):
    process = job.start("run_distribute.sh", "none", "cpu.yaml", "[0,2]", "train", FAKE_SLEEP="60")
    job.wait_for_ranks(2)
    time.sleep(0.5)
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
