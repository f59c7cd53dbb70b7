"""The Python 3.7 with MindSpore Lite that tests of real Lite run in."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_NO_PYTHON = 3


@lru_cache(maxsize=1)
def set_up() -> tuple[str | None, str]:
    """The interpreter, set up when it was not; None with the reason where there is no Python 3.7."""
    done = subprocess.run([ROOT / "scripts/set_up_lite.sh"], capture_output=True, text=True, timeout=900, check=False)
    if done.returncode == 0:
        return done.stdout.strip(), ""
    reason = (done.stderr.strip().splitlines() or ["scripts/set_up_lite.sh failed"])[-1]
    if done.returncode != _NO_PYTHON:
        raise RuntimeError(done.stderr)
    return None, reason


def require() -> str:
    """The interpreter; without one the test is skipped, or fails where GLM_REQUIRE_ALL is set."""
    python, reason = set_up()
    if python is None:
        if os.environ.get("GLM_REQUIRE_ALL"):
            pytest.fail(f"GLM_REQUIRE_ALL is set and MindSpore Lite cannot run: {reason}")
        pytest.skip(reason)
    return python
