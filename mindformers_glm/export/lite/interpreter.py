"""The Python that has mindspore_lite: the one that is named, this one, or one of the usual places."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from mindformers_glm.errors import DeviceError

VARIABLE = "MINDFORMERS_GLM_LITE_PYTHON"
ENVIRONMENT = ".venv-lite"  # made by `make lite`
_PROBE = "import importlib.util as u, sys; sys.exit(0 if u.find_spec('mindspore_lite') and u.find_spec('numpy') else 3)"
_SECONDS = 60
_REPAIR = (
    "Run `make lite` (it needs a Python 3.7), or `pip install mindspore-lite==2.0.0 numpy` into a Python 3.7 and name "
    f"it with --lite_python or {VARIABLE}"
)


def can_import_here() -> bool:
    """True where Lite can be loaded into this process: it is installed, and MindSpore has not been loaded."""
    return "mindspore" not in sys.modules and importlib.util.find_spec("mindspore_lite") is not None


def find_python(named: str | Path | None = None) -> str:
    """The interpreter to run Lite in.

    Looked for in this order: `named`, the environment variable MINDFORMERS_GLM_LITE_PYTHON, this interpreter,
    `.venv-lite` in the current folder and in the checkout, pythons on the PATH.

    Raises:
        DeviceError: the named one cannot import mindspore_lite, or none can.
    """
    for source, python in (("--lite_python", named), (VARIABLE, os.environ.get(VARIABLE))):
        if python:
            fault = fault_of(str(python))
            if fault:
                raise DeviceError(f"{source}: got {str(python)!r}, {fault}. {_REPAIR}")
            return str(python)
    for python in _candidates():
        if fault_of(python) is None:
            return python
    raise DeviceError(f"MindSpore Lite is not on this machine: no Python here can import mindspore_lite. {_REPAIR}")


@lru_cache(maxsize=32)
def fault_of(python: str) -> str | None:
    """Why this interpreter cannot run Lite; None when it can."""
    if shutil.which(python) is None:
        return "and there is no such program"
    try:
        done = subprocess.run([python, "-c", _PROBE], capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"which cannot be run ({error})"
    return {0: None, 3: "which has no mindspore_lite or no numpy"}.get(done.returncode, "which is no Python")


def _candidates() -> Iterator[str]:
    if importlib.util.find_spec("mindspore_lite") is not None:
        yield sys.executable
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        python = folder / ENVIRONMENT / "bin" / "python"
        if python.is_file():
            yield str(python)
    for name in ("python3.7", "python3"):
        found = shutil.which(name)
        if found:
            yield found
