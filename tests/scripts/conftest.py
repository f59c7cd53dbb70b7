"""A folder in which the scripts start a stand-in for run_mindformer.py, as often as they are told."""

from __future__ import annotations

import contextlib
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
