"""A trainer killed again and again ends with the losses and weights of one that was left alone."""

import json
from pathlib import Path

import forked
import pytest

SCRIPT = Path(__file__).with_name("killed_trainer.py")


def run(folder: Path, kills: int, kind: str, how: str) -> dict:
    done = forked.run([SCRIPT, folder, kills, kind, how], timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kills", "kind", "how"),
    [
        pytest.param(4, "toy", "mixed", marks=pytest.mark.slow),
        (3, "toy", "aimed"),
        pytest.param(60, "toy", "random", marks=pytest.mark.slow),
        pytest.param(60, "toy", "aimed", marks=pytest.mark.slow),
        pytest.param(12, "glm", "mixed", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_runs_equal_a_straight_one(tmp_path, kills, kind, how):
    found = run(tmp_path, kills, kind, how)
    print(json.dumps(found))
    assert found["kills"] == kills
    assert found["steps"] > kills
    assert found["temporaries_at_most"] <= 3  # one in each folder, swept by the next save there
    if how == "aimed":
        assert found["network_of_an_earlier_step_after_a_kill"] >= kills // 3  # which every resume repaired
