"""No operator for training reads or writes outside its arrays: a library that watches its memory says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_glm.ops.kernels import build
from mindformers_glm.ops.kernels.library import features

WATCHED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


@pytest.mark.slow
@pytest.mark.parametrize("variant", build.variants(), ids=lambda variant: variant.name)
def test_operators_stay_within_their_arrays(variant, tmp_path):
    if build.compiler() is None or not set(variant.features) <= features():
        pytest.skip("there is no compiler, or this CPU cannot run the variant")
    found = subprocess.run(
        [build.compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("the compiler has no sanitizer")
    try:
        (library,) = build.build(tmp_path, chosen=(variant,), extra=WATCHED)
    except subprocess.CalledProcessError as error:
        pytest.fail(error.stderr)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("operator_calls.py"), library],
        env={**os.environ, "LD_PRELOAD": found, "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (0, "all operators called\n"), done.stderr[-3000:]
