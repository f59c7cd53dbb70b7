"""A script of this folder in several processes, through msrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(folder, processes, *variants, script="twenty_steps.py", timeout=400, **environment):
    """Runs the script in `processes` processes, with more variables in their environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        **environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(HERE.parents[1]),
        "GLOG_v": "3",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={processes}"),
            *(f"--local_worker_num={processes}", f"--master_port={port}", f"--log_dir={folder}/log", "--join=True"),
            *("--tail_worker_log=1000000", str(HERE / script), str(folder), *variants),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    logs = {log.name: log.read_text()[-3000:] for log in (folder / "log").glob("worker_*.log")}
    assert done.returncode == 0, "\n".join(f"{name}:\n{text}" for name, text in logs.items())
