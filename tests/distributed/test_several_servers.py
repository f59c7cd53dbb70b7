"""Two servers with networks of their own, one process each: they train as one process, and a lost one is named."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from waiting import until

NETWORKS = shutil.which("unshare") and shutil.which("nsenter") and shutil.which("ip")
MAY = NETWORKS and subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.skipif(not MAY, reason="needs networks of its own")]
SMALL = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4, "kv_channels": 16}
STEPS, PORT = 8, "8118"  # steps of an epoch
EPOCHS = 3  # of a run that is killed after its first steps


@pytest.fixture
def words(root, tmp_path):
    """The command line of run_mindformer.py for a small network, trained by so many data ranks."""
    signs, rng = ["类型", "裤", "颜色", "黑色", "上衣", "显瘦"], np.random.default_rng(0)
    rows = [{"content": "*".join(rng.choice(signs, 4)), "summary": "".join(rng.choice(signs, 9))} for _ in range(32)]
    data = tmp_path / "train.json"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def command(output, *, dp, resume=False, epochs=1):
        settings = {
            **{f"model.model_config.{name}": value for name, value in SMALL.items()},
            "model.model_config.seq_length": 40,
            "train_dataset.max_source_length": 15,
            "train_dataset.max_target_length": 24,
            "runner_config.sink_mode": False,
            "parallel.zero_level": 1 if dp > 1 else 0,
            "allow_random_weights": True,
            "load_checkpoint": "''",
        }
        callbacks = [{"type": "CheckpointMonitor", "prefix": "g", "save_checkpoint_steps": 2}]
        found = ["--config", str(root / "configs/tiny/run_glm2_tiny_finetune.yaml"), "--run_mode", "train"]
        found += ["--use_parallel", str(dp > 1), "--train_dataset_dir", str(data), "--output_dir", str(output)]
        found += ["--batch_size", str(4 // dp), "--epochs", str(epochs), "--callbacks", json.dumps(callbacks)]
        found += ["--resume_training", "true"] if resume else []
        return [*found, "--options", *(f"{name}={value}" for name, value in settings.items())]

    return command


@pytest.fixture
def servers(root, tmp_path):
    """Starts two servers, each with the command of its node; what is left of them is killed at the end."""
    started = []

    def start(commands):
        for node, command in enumerate(commands):
            (tmp_path / f"node{node}.sh").write_text(f"cd {shlex.quote(str(tmp_path))}\nexec {shlex.join(command)}\n")
            (tmp_path / f"node{node}.status").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "GLOG_v": "3"}
        script = str(Path(__file__).with_name("two_servers.sh"))
        command = ["unshare", "-rn", "--fork", "--kill-child", "bash", script, str(tmp_path)]
        started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def finish(process, folder):
    """Exit status and output of both nodes."""
    process.wait(timeout=600)
    return [(int((folder / f"node{n}.status").read_text()), (folder / f"node{n}.log").read_text()) for n in (0, 1)]


def through_msrun(root, words, folder):
    script = str(root / "scripts/msrun_launcher.sh")
    order = shlex.join(["run_mindformer.py", *words])
    return [
        ["bash", script, order, "2", "1", "10.77.0.1", PORT, str(node), f"{folder}/msrun{node}", "True", "300"]
        for node in (0, 1)
    ]


def losses(folder):
    rows = map(json.loads, (folder / "loss_history.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows}


def alone(root, words, folder, **more):
    """The same run in one process; its losses."""
    command = [sys.executable, str(root / "run_mindformer.py"), *words(folder, dp=1, **more)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(folder)


def test_two_servers_train_as_one_process(root, tmp_path, words, servers):
    """Through msrun_launcher.sh with nine arguments, then through run_distribute.sh with a rank table."""
    expected = alone(root, words, tmp_path / "one")
    assert len(expected) == STEPS
    folder = tmp_path / "msrun"
    for status, output in finish(servers(through_msrun(root, words(folder, dp=2), folder)), tmp_path):
        assert status == 0, output[-3000:]
    assert losses(folder) == pytest.approx(expected, rel=1e-5)

    devices = [[{"device_id": "0", "device_ip": f"192.168.7.{n}", "rank_id": str(n)}] for n in (0, 1)]
    hosts = [{"server_id": f"10.77.0.{n + 1}", "device": devices[n], "host_nic_ip": "reserve"} for n in (0, 1)]
    table = {"version": "1.0", "server_count": "2", "server_list": hosts, "status": "completed"}
    (tmp_path / "table.json").write_text(json.dumps(table))
    folder, script = tmp_path / "table", str(root / "scripts/run_distribute.sh")
    given = words(folder, dp=2)
    config, options = given[1], given[given.index("--train_dataset_dir") :]
    place = ("--device_target", "CPU")
    commands = [
        ["bash", script, "table.json", config, f"[{n},{n + 1}]", "train", "2", "--", *place, *options] for n in (0, 1)
    ]
    for status, output in finish(servers(commands), tmp_path):
        assert status == 0, output[-3000:]
    assert losses(folder) == pytest.approx(expected, rel=1e-5)


def network_of(number):
    """The network namespace of a process, as a name; None when the process is gone."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{number}/ns/net")
    return None


def processes_of_node(folder, node):
    """Every process of one server: those that share the network of its supervisor."""
    numbers, networks = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()], set()
    for number in numbers:
        with contextlib.suppress(OSError):
            if f"{folder}/msrun{node}".encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                networks.add(network_of(number))
    return [number for number in numbers if network_of(number) in networks - {network_of("self"), None}]


def test_a_lost_server_ends_the_other_and_one_device_goes_on(root, tmp_path, words, servers):
    expected = alone(root, words, tmp_path / "one", epochs=EPOCHS)
    folder = tmp_path / "two"
    process = servers(through_msrun(root, words(folder, dp=2, epochs=EPOCHS), folder))

    def came() -> bool:
        assert process.poll() is None
        return (folder / "loss_history.jsonl").is_file() and len(losses(folder)) >= 4

    until(came, seconds=300)
    lost = processes_of_node(folder, 1)
    assert lost
    for number in lost:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    begin = time.monotonic()
    (status, output), _ = finish(process, tmp_path)
    print(json.dumps({"seconds_to_the_end": round(time.monotonic() - begin, 1), "said": output[-1500:]}))
    assert status != 0
    assert "error: rank 1 does not answer any more. Its process or its server is lost" in output
    assert not processes_of_node(folder, 0)
    assert len(losses(folder)) < EPOCHS * STEPS
    found = alone(root, words, folder, resume=True, epochs=EPOCHS)
    assert found == pytest.approx(expected, rel=1e-5)
