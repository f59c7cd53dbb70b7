"""Compiles the kernels, once for each kind of processor: `python -m mindformers_glm.ops.kernels.build [FOLDER]`.

A library carries a digest of its sources in its name, so that one that does not belong to them is never loaded.
Standard library only: setup.py runs this file before anything else is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parent / "source"
FOLDER = Path(__file__).resolve().parent / "built"
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-Wall", "-Wno-psabi",
          "-Wno-maybe-uninitialized")  # fmt: skip


class Variant(NamedTuple):
    """A build for processors that have all of `features` (as /proc/cpuinfo spells them)."""

    name: str
    features: tuple[str, ...]
    flags: tuple[str, ...]


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
VARIANTS = (  # the best first
    Variant("avx512_vnni", (*_AVX512, "avx512_vnni"), ("-march=skylake-avx512", "-mavx512vnni")),
    Variant("avx512", _AVX512, ("-march=skylake-avx512",)),
    Variant("avx2", _AVX2, ("-mavx2", "-mfma", "-mf16c")),
    Variant("portable", (), ()),
)


def variants() -> tuple[Variant, ...]:
    """Those that make sense for this architecture."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return VARIANTS if is_x86 else VARIANTS[-1:]


def library_path(variant: Variant, folder: Path = FOLDER) -> Path:
    """Where the library of a variant is, when it has been built from these sources."""
    return folder / f"libglm_{variant.name}-{digest()}.so"


@cache
def digest() -> str:
    """Eight letters that change with the sources and with how they are compiled."""
    content = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(SOURCE.iterdir()):
        content.update(path.name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:8]


def compiler() -> str | None:
    """The C++ compiler: $CXX, g++, c++ or clang++; None where there is none."""
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name.split()[0]))), None)


def build(
    folder: Path = FOLDER, *, chosen: tuple[Variant, ...] | None = None, extra: tuple[str, ...] = ()
) -> list[Path]:
    """The libraries that were made; each appears whole or not at all.

    Raises:
        FileNotFoundError: there is no compiler.
        subprocess.CalledProcessError: it failed; its output is in `stderr`.
    """
    program = compiler()
    if program is None:
        raise FileNotFoundError("no C++ compiler (g++, c++ or clang++) was found")
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path) for path in SOURCE.glob("*.cpp"))
    made = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        running = []
        for variant in chosen or variants():
            target = Path(scratch) / library_path(variant).name
            command = [program, *_FLAGS, *variant.flags, *extra, *sources, "-o", str(target)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            running.append((variant, target, command, process))
        for variant, target, command, process in running:
            output, _ = process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command, stderr=output)
            os.replace(target, library_path(variant, folder))
            made.append(library_path(variant, folder))
            for old in folder.glob(f"libglm_{variant.name}-*.so"):
                if old != made[-1]:
                    old.unlink()
    return made


def main() -> int:
    """Builds, and says in one line what came of it; 1 where nothing could be built."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if all(library_path(variant, folder).exists() for variant in variants()):
        return 0
    try:
        made = build(folder)
    except FileNotFoundError as error:
        print(
            f"kernels: {error}; everything works without them, on plain formulas, several times slower", file=sys.stderr
        )
        return 1
    except subprocess.CalledProcessError as error:
        print(f"kernels: the compiler failed\n{error.stderr}", file=sys.stderr)
        return 1
    print(f"kernels: built {', '.join(path.stem[7:].partition('-')[0] for path in made)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
