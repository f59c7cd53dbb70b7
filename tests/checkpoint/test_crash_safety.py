"""SIGKILL at every call that changes the disk, and at random moments: what is there is always whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, kills):
    found = kill("moments", tmp_path, kills)
    assert found["last_step"] > 5
    assert found["temporaries_at_most"] <= 1
