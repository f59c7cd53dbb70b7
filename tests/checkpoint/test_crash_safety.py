"""SIGKILL at every call that changes the disk, and at random moments: what is there is always whole."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindformers_glm.checkpoint.atomic import is_temporary
from mindformers_glm.checkpoint.saved import of_rank
from mindformers_glm.checkpoint.store import CheckpointStore

SCRIPT = Path(__file__).with_name("killed_saves.py")


def kill(kind: str, folder: Path, every: int) -> dict:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), kind, str(folder), str(every)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("kind", "every", "kills"), [("store", 6, 10), ("directory", 40, 10)])
def test_killed_while_saving(tmp_path, kind, every, kills):
    found = kill(kind, tmp_path, every)
    assert found["kills"] >= kills
    assert found["temporaries_at_most"] <= 1
    assert found["temporaries_left"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("store", 50), ("directory", 200)])
def test_killed_at_every_stage(tmp_path, kind, kills):
    found = kill(kind, tmp_path, 1)
    assert found["kills"] >= kills
    assert found["temporaries_at_most"] <= 1
    assert found["temporaries_left"] == 0


_SAVER = """
import sys
sys.path.insert(0, {root!r})
sys.path.insert(0, {here!r})
from killed_saves import state
from mindformers_glm.checkpoint.store import CheckpointStore
store = CheckpointStore({folder!r}, keep=3, resume=True)
newest = store.newest()
step = newest.global_step if newest else 0
print("ready", flush=True)
while True:
    step += 1
    store.save(state(step), background=step % 2 == 0)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, root, kills):
    code = _SAVER.format(root=str(root), here=str(SCRIPT.parent), folder=str(tmp_path))
    moments, last = random.Random(5), 0
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.0, 0.4))
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=60)
        on_disk = list((tmp_path / "checkpoint/rank_0").glob("*.ckpt"))
        sound = of_rank(tmp_path / "checkpoint", "CKP", 0)
        assert len(sound) == len(on_disk) <= 5
        newest = sound[-1].global_step if sound else 0
        assert newest >= last
        last = newest
        assert sum(is_temporary(path) for path in tmp_path.rglob("*")) <= 1
    store = CheckpointStore(tmp_path, resume=True)
    assert store.load().global_step == last
    store.close()
