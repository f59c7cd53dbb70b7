"""No kernel reads or writes out of bounds, and none relies on undefined behaviour: builds with sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mindformers_glm.ops.kernels import build, library

DRIVER = Path(__file__).with_name("drive_inference.cpp")
here = [variant for variant in build.variants() if set(variant.features) <= library.features()]


@pytest.mark.slow
@pytest.mark.parametrize("variant", here, ids=lambda variant: variant.name)
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_inference(variant, sanitizer, tmp_path):
    sources = [path for path in build.SOURCE.glob("*.cpp") if path.name != "network.cpp"]  # the driver includes it
    flags = ["-std=c++20", "-O1", "-g", "-pthread", "-Wno-psabi", f"-fsanitize={sanitizer}", "-fno-sanitize-recover"]
    program = tmp_path / "drive"
    command = [build.compiler(), *flags, *variant.flags, f"-I{build.SOURCE}", DRIVER, *sources, "-o", program]
    built = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-4000:]
    assert done.stdout == "0 results are not finite\n"
