"""Attention over the cache: against the formula in float64, and the same whatever is computed together."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mindformers_glm.ops.kernels import build, library

DRIVER = Path(__file__).with_name("drive_attention.cpp")
SOURCES = [build.SOURCE / name for name in ("cached_attention.cpp", "cache_numbers.cpp", "parallel.cpp")]
here = [variant for variant in build.variants() if set(variant.features) <= library.features()]


@pytest.mark.slow
@pytest.mark.parametrize("variant", here, ids=lambda variant: variant.name)
def test_attention_over_the_cache(variant, tmp_path):
    """Beside values of at most 1: float16's own rounding moves a result by up to 5e-4, which the sums may match."""
    program = tmp_path / "drive"
    flags = ["-std=c++20", "-O2", "-pthread", "-fno-math-errno", "-Wno-psabi", *variant.flags]
    command = [*build.compile_command(), *flags, f"-I{build.SOURCE}", DRIVER, *SOURCES, "-o", program]
    built = subprocess.run(list(map(os.fspath, command)), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    done = subprocess.run([os.fspath(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    exact, halves, bytes_, differ = map(float, done.stdout.split())
    assert differ == 0
    assert exact < 1e-5
    assert halves < 1e-3
    assert bytes_ < 1e-3
