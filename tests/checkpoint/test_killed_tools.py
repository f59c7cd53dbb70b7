"""Commands that write weights, killed again and again: inputs intact, outputs whole, the same command ends well."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_tools.py")
TOOLS = ("convert", "merge-lora", "quantize", "transform", "export")


@pytest.mark.parametrize(
    ("tool", "kills"),
    [("transform", 4), *(pytest.param(tool, 20, marks=pytest.mark.slow) for tool in TOOLS)],
)
def test_a_killed_command_leaves_whole_files_and_can_be_given_again(tmp_path, tool, kills):
    command = [sys.executable, str(SCRIPT), tool, str(tmp_path / "work"), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found))
    assert found["kills"] == kills
    assert found["died"] >= kills // 2
    assert found["absent"] + found["old"] + found["part"] > 0
