"""C++ operators of a user's own, compiled for this CPU as those of the package are."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.kernels import build
from mindformers_glm.ops.kernels.library import features

_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-Wall", "-Wextra", f"-I{build.SOURCE}")


def compiled(sources: str | Path | Sequence[str | Path], folder: str | Path | None = None) -> Path:
    """The library of these C++ files, for `operators.operator(..., library=...)`; compiled where it is not there yet.

    The files include `operators.h` and define `GLM_OPERATOR(Name)`. The library lies in `folder`, or beside the
    first of them, with a digest of the sources in its name; it appears whole or not at all.

    Raises:
        ConfigError: there is no compiler, no such file, the folder cannot be written, or a file does not compile: the
            compiler's first complaint.
    """
    files = [Path(one) for one in ([sources] if isinstance(sources, (str, Path)) else sources)]
    missing = next((str(file) for file in files if not file.is_file()), None)
    if missing is not None:
        raise ConfigError("sources", missing, "There is no such file.")
    program = build.compile_command()
    if not program:
        raise ConfigError("sources", str(files[0]), "No C++ compiler (g++, c++ or clang++) was found: install one.")
    variant = next(one for one in build.variants() if set(one.features) <= features())
    content = hashlib.sha256(repr((_FLAGS, variant.flags)).encode())
    for file in (*files, build.SOURCE / "operators.h"):
        content.update(file.read_bytes())
    place = Path(folder or files[0].parent).resolve()
    target = place / f"lib{files[0].stem}_{variant.name}-{content.hexdigest()[:8]}.so"
    if target.is_file():
        return target
    try:
        _compile(program, (*_FLAGS, *variant.flags), files, target)
    except OSError as error:
        fix = f"It cannot be written ({error.strerror}): name another `folder`, or change its permissions."
        raise ConfigError("folder", str(place), fix) from error
    return target


def _compile(program: Sequence[str], flags: Sequence[str], files: Sequence[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        command = [*program, *flags, *map(str, files), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
            fault = next((line for line in lines if "error" in line), lines[0])
            raise ConfigError("sources", str(files[0]), f"The compiler refuses it: {fault}")
        os.replace(made, target)
