"""A script of this folder in several processes with their scheduler, forked from one that has imported MindSpore.

They are told who they are as msrun tells its own. What msrun itself does is for tests/scripts, test_job_failures.py and
test_several_servers.py.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from forked import Child
from waiting import first_ended

HERE = Path(__file__).parent


def run(folder, processes, *variants, script="twenty_steps.py", timeout=400, **environment):
    """Runs the script in `processes` processes, with more variables in their environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        **environment,
        **{"MS_WORKER_NUM": str(processes), "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port)},
        **{"PYTHONPATH": str(HERE.parents[1]), "GLOG_v": "3", "OMP_NUM_THREADS": "1"},
    }
    logs = folder / "log"
    logs.mkdir(exist_ok=True)
    scheduler = Child(
        [HERE / "scheduler.py"], cwd=folder, env={**shared, "MS_ROLE": "MS_SCHED"}, log=logs / "scheduler"
    )
    ranks = {}
    for rank in range(processes):
        own = {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank), "DEVICE_ID": str(rank)}
        log = logs / f"worker_{rank}"
        child = Child([HERE / script, folder, *variants], cwd=folder, env={**shared, **own}, log=log)
        ranks[child.pid] = child
    running = dict(ranks)
    try:
        while running and not any(child.returncode for child in ranks.values()):
            ended = first_ended([*running, scheduler.pid], seconds=timeout)
            assert ended and scheduler.pid not in ended, f"no end after {timeout} seconds, or of the scheduler: {logs}"
            for pid in ended:
                running.pop(pid).poll()
    finally:
        for child in (*running.values(), scheduler):
            child.kill()
            child.wait()
    said = {log.name: log.read_text(errors="replace")[-3000:] for log in sorted(logs.glob("worker_*.err"))}
    assert not any(child.returncode for child in ranks.values()), "\n".join(f"{name}:\n{said[name]}" for name in said)
