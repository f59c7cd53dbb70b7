"""A checkpoint of true 6B width, as large as the disk allows, converts in little memory and at the speed of copying."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("big_conversion.py")
LAYER_BYTES, REST_BYTES = 408 * 10**6, 1066 * 10**6


@pytest.mark.slow
def test_memory_and_speed(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    layers = min(28, (free // 3 - REST_BYTES) // LAYER_BYTES)  # the source, one output, and room for others
    if layers < 2:
        pytest.skip(f"{free:,} bytes free are too few for a conversion worth measuring")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "big"), "--layers", str(layers), "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["peak_bytes"] < 4 * 10**9
    assert max(found["speed_of_cp_without_start"].values()) >= 0.5
