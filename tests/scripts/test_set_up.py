"""The set-up of `make`: what it shows while pip works, and how it fails; pip is a stand-in here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = """#!/usr/bin/env bash
[ "${1:-}" = -c ] && exit 0
[ "${1:-}" = scripts/own_kernels.py ] && exit 0
[ "${1:-}" = --version ] && { echo Python 3.11.9; exit; }
echo "Collecting mindspore==2.10.* (from mindformers_glm==1)"
echo "  Downloading mindspore-2.10.0.whl (301.2 MB)"
echo "Collecting numpy<2"
echo "  Downloading numpy-1.26.whl.metadata (61 kB)"
echo "Installing collected packages: numpy, mindspore"
[ -e fails ] && { echo "ERROR: no space left on device" >&2; exit 1; }
exit 0
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/set_up_venv.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    return tmp_path


def set_up(checkout: Path, language: str = "en") -> subprocess.CompletedProcess:
    environment = {**os.environ, "MINDFORMERS_GLM_LANG": language, "PYTHON": str(checkout / ".venv/bin/python")}
    return subprocess.run(
        ["bash", "scripts/set_up_venv.sh", ".venv"], cwd=checkout, env=environment, capture_output=True, text=True
    )


def test_the_set_up_shows_what_it_does(checkout):
    done = set_up(checkout)
    assert done.returncode == 0, done.stderr
    assert "Downloading mindspore-2.10.0.whl (301.2 MB)" in done.stdout
    assert "unpacking 2 packages" in done.stdout and "installed" in done.stdout
    assert "metadata" not in done.stdout and "metadata" in (checkout / ".venv/install.log").read_text()
    again = set_up(checkout)
    assert again.returncode == 0 and again.stdout == ""


def test_a_failed_set_up_says_why_and_begins_anew(checkout):
    (checkout / "fails").touch()
    done = set_up(checkout, "zh")
    assert done.returncode == 1
    assert "no space left on device" in done.stderr and "错误：安装失败" in done.stderr
    (checkout / "fails").unlink()
    assert "安装完成" in set_up(checkout, "zh").stdout
