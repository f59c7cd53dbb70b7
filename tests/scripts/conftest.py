"""A folder in which the scripts start a stand-in for run_mindformer.py, as often as they are told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

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
import contextlib, json, os, pathlib, signal, sys
sys.path.append({tests!r})
from waiting import has_ended
folder = pathlib.Path(os.environ["FAKE_OUT"])
waits, fails = "FAKE_WAITS" in os.environ, os.environ.get("FAKE_FAILS")
if os.environ.get("MS_ROLE") == "MS_SCHED":
    while waits: signal.pause()
    sys.exit(0)
rank = int(os.environ["RANK_ID"])
try:
    names = ("RANK_ID", "RANK_SIZE", "DEVICE_ID", "RANK_TABLE_FILE", "LOG_MF_PATH", "MS_ROLE")
    about = {{"argv": sys.argv[1:], "cwd": os.getcwd(), **{{n: os.environ.get(n) for n in names}}}}
    print(f"hello from rank {{rank}}", flush=True)
    (folder / f"{{rank}}.part").write_text(json.dumps({{**about, "pid": os.getpid()}}))
    (folder / f"{{rank}}.part").rename(folder / f"started_{{rank}}.json")
    if waits:
        pipe = folder / ("fail" if str(rank) == fails else "release")
        os.read(os.open(pipe, os.O_RDONLY), 1)  # a letter of the test's for each rank
except KeyboardInterrupt:  # one saves after the other, when that one has gone: nobody may end those that still save
    with contextlib.suppress(FileNotFoundError):
        has_ended(json.loads((folder / f"started_{{rank - 1}}.json").read_text())["pid"])
    (folder / f"saved_{{rank}}").touch()
    sys.exit(1)
if str(rank) == fails:
    sys.exit("ValueError: this rank is tired")
"""


@pytest.fixture
def job(root, tmp_path):
    """A folder with a configuration, a rank table and a stand-in for run_mindformer.py; runs a script in it."""
    (tmp_path / "entry.py").write_text(ENTRY.format(tests=str(root / "tests")))
    os.mkfifo(tmp_path / "release")
    os.mkfifo(tmp_path / "fail")
    (tmp_path / "table.json").write_text(json.dumps(TABLE))
    (tmp_path / "cpu.yaml").write_text("context:\n  device_target: CPU\noutput_dir: ./output # the default\n")
    (tmp_path / "npu.yaml").write_text("base_config: cpu.yaml\ncontext:\n  device_target: 'Ascend' # comment\n")

    class Job:
        folder, table = tmp_path, TABLE
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

        def fail(self, process):
            """Lets the rank fail that waits for it, and takes the job's end."""
            (tmp_path / "fail").write_text("x")
            out, err = process.communicate(timeout=90)
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)

        def started(self):
            return {int(p.stem[8:]): json.loads(p.read_text()) for p in sorted(tmp_path.glob("started_*.json"))}

        def wait_for_ranks(self, count):
            until(lambda: len(self.started()) == count, "the ranks did not start")

        def wait_for_msrun(self, process, ranks):
            """Until the supervisor knows the processes of MindSpore's launcher; the number of the scheduler."""
            missing, scheduler = {f"rank {rank}" for rank in range(ranks)} | {"the scheduler"}, 0
            while missing:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                found = re.fullmatch(r"(.+): process (\d+)\n", line)
                if found:
                    missing.remove(found[1])
                    scheduler = int(found[2]) if found[1] == "the scheduler" else scheduler
            self.wait_for_ranks(ranks)
            return scheduler

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
