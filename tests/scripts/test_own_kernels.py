"""`make venv` compiles the kernels of one CPU; the compiler is a stand-in here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_glm.ops.kernels import build, library

ROOT = Path(__file__).resolve().parents[2]
OWN = next(variant.name for variant in build.variants() if set(variant.features) <= library.features())
COMPILER = '#!/bin/sh\n{fault}\nwhile [ $# -gt 1 ]; do shift; done; echo made > "$1"\n'


@pytest.fixture
def checkout(tmp_path) -> Path:
    kernels = tmp_path / "mindformers_glm/ops/kernels"
    (kernels / "source").mkdir(parents=True)
    (kernels / "source/one.cpp").touch()
    for name in ("build.py", "cpu.py"):
        shutil.copy(ROOT / "mindformers_glm/ops/kernels" / name, kernels)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/own_kernels.py", tmp_path / "scripts")
    return tmp_path


def compiled(checkout: Path, fault: str = "") -> tuple[subprocess.CompletedProcess, list[str]]:
    compiler = checkout / "c++"
    compiler.write_text(COMPILER.format(fault=fault))
    compiler.chmod(0o755)
    command = [sys.executable, "scripts/own_kernels.py"]
    environment = {**os.environ, "CXX": str(compiler)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    made = (checkout / "mindformers_glm/ops/kernels/built").glob("libglm_*.so")
    return done, sorted(path.stem[7:].partition("-")[0] for path in made)


def test_the_kernels_of_this_cpu_are_built_once(checkout):
    done, made = compiled(checkout)
    assert (done.returncode, done.stderr, made) == (0, "", [OWN])
    assert done.stdout == f"kernels: built {OWN}, for this CPU\n"
    again, _ = compiled(checkout, fault="exit 3")  # nothing is compiled
    assert (again.returncode, again.stdout) == (0, "")


@pytest.mark.skipif(build.variants()[-1].name == OWN, reason="this CPU runs the portable kernels alone")
def test_where_they_cannot_be_built_the_others_are(checkout):
    fault = f'case "$*" in *libglm_{OWN}-*) echo "x.cpp:1: error: no flag"; exit 3;; esac'
    done, made = compiled(checkout, fault)
    assert done.returncode == 0 and OWN not in made and "portable" in made
    assert f"the compiler failed for {OWN}" in done.stderr
