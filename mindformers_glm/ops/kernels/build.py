"""Compiles the kernels, once for each kind of CPU: `python -m mindformers_glm.ops.kernels.build [FOLDER]`.

With `--check` in place of the folder nothing is made: every warning of the compiler is an error, and the sources must
look as .clang-format says where clang-format is installed.

A library carries a digest of its sources in its name, so that one that does not belong to them is never loaded.
Standard library only: setup.py runs this file before anything else is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parent / "source"
FOLDER = Path(__file__).resolve().parent / "built"
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-fno-math-errno")
_WARNINGS = ("-Wall", "-Wextra", "-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized")  # GCC 12's own headers
_RUNTIME = ("-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL")  # hidden, beside MindSpore's own
_LEFT_BEHIND_SECONDS = 3600


class Variant(NamedTuple):
    """A build for CPUs that have all of `features` (as /proc/cpuinfo spells them)."""

    name: str
    features: tuple[str, ...]
    flags: tuple[str, ...]


class BuildError(Exception):
    """The compiler failed for some variants: `outputs` by their names. `made` are the libraries of the others."""

    def __init__(self, made: list[Path], outputs: dict[str, str]) -> None:
        names = ", ".join(outputs)
        lines = next(iter(outputs.values())).splitlines()
        first = next((line for line in lines if "error" in line), lines[0])
        super().__init__(f"the compiler failed for {names}: {first}")
        self.made, self.outputs = made, outputs


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_PORTABLE = (Variant("portable", (), ()),)
X86 = (  # the best first
    Variant("avx512_vnni", (*_AVX512, "avx512_vnni"), ("-march=skylake-avx512", "-mavx512vnni")),
    Variant("avx512", _AVX512, ("-march=skylake-avx512",)),
    Variant("avx_vnni", (*_AVX2, "avx_vnni"), ("-mavx2", "-mfma", "-mf16c", "-mavxvnni")),
    Variant("avx2", _AVX2, ("-mavx2", "-mfma", "-mf16c")),
    *_PORTABLE,
)
ARM = (
    Variant("arm_i8mm", ("asimddp", "i8mm"), ("-march=armv8.2-a+dotprod+i8mm",)),
    Variant("arm_dotprod", ("asimddp",), ("-march=armv8.2-a+dotprod",)),
    *_PORTABLE,
)


def variants(machine: str | None = None) -> tuple[Variant, ...]:
    """Those that make sense for an architecture, this one's if none is named."""
    name = (machine or platform.machine()).lower()
    return X86 if name in ("x86_64", "amd64") else ARM if name in ("aarch64", "arm64") else _PORTABLE


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


def compile_command() -> list[str]:
    """The C++ compiler as words, the first of them a file: $CXX, g++, c++ or clang++; empty where there is none."""
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        words = shlex.split(name)
        if words and (found := shutil.which(words[0])):
            return [found, *words[1:]]
    return []


def compiler() -> str | None:
    """The program that `compile_command` starts with; None where there is none."""
    return next(iter(compile_command()), None)


def build(
    folder: Path = FOLDER, *, chosen: tuple[Variant, ...] | None = None, extra: tuple[str, ...] = ()
) -> list[Path]:
    """The libraries that were made; each appears whole or not at all.

    Raises:
        FileNotFoundError: there is no compiler.
        BuildError: it failed for some variants; the others are there.
    """
    program = compile_command()
    if not program:
        raise FileNotFoundError("no C++ compiler (g++, c++ or clang++) was found")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    sources = sorted(str(path) for path in SOURCE.glob("*.cpp"))
    running: list[tuple[Variant, Path, subprocess.Popen[str]]] = []
    made, outputs = [], {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        flags = [*_FLAGS, *_WARNINGS, *_own_runtime(program, Path(scratch), extra)]
        try:
            for variant in chosen or variants():
                target = Path(scratch) / library_path(variant).name
                command = [*program, *flags, *variant.flags, *extra, *sources, "-o", str(target)]
                running.append((variant, target, _start(command)))
            for variant, target, process in running:
                output, _ = process.communicate()
                if process.returncode or not target.exists():
                    outputs[variant.name] = output.strip() or f"exit status {process.returncode}"
                else:
                    made.append(_put(target, library_path(variant, folder), variant))
        finally:
            for _, _, process in running:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
    if outputs:
        raise BuildError(made, outputs)
    return made


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")


def _put(target: Path, place: Path, variant: Variant) -> Path:
    os.replace(target, place)
    for old in place.parent.glob(f"libglm_{variant.name}-*.so"):
        if old != place:
            old.unlink()
    return place


def _own_runtime(program: list[str], scratch: Path, extra: tuple[str, ...]) -> tuple[str, ...]:
    """Flags that put the C++ runtime into the library, so that it also loads where an older one is installed.

    None where the compiler does not know them or has no such archive, and none with sanitizers, which watch the
    runtime's functions from outside.
    """
    if any(flag.startswith("-fsanitize") for flag in extra):
        return ()
    probe = "#include <string>\nstd::string text(int n) { return std::to_string(n); }\n"
    command = [*program, "-shared", "-fPIC", *_RUNTIME, "-x", "c++", "-", "-o", str(scratch / "probe.so")]
    done = subprocess.run(command, input=probe, capture_output=True, text=True, errors="replace", check=False)
    return () if done.returncode else _RUNTIME


def _remove_leftovers(folder: Path) -> None:
    """Removes what builds that were killed left behind; a younger one may still be at work."""
    for path in folder.glob("tmp*"):
        if path.is_dir() and path.stat().st_mtime < time.time() - _LEFT_BEHIND_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def check(chosen: tuple[Variant, ...] | None = None) -> list[str]:
    """What the compiler warns of in the sources, for every variant, and which files are formatted otherwise.

    Raises:
        FileNotFoundError: there is no compiler.
    """
    program = compile_command()
    if not program:
        raise FileNotFoundError("no C++ compiler (g++, c++ or clang++) was found")
    sources = sorted(str(path) for path in SOURCE.glob("*.cpp"))
    checked = [flag for flag in _FLAGS if flag not in ("-shared", "-O3")]

    def warnings(variant: Variant, source: str) -> list[str]:
        command = [*program, *checked, *_WARNINGS, "-Werror", *variant.flags, "-fsyntax-only", source]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        return [line for line in done.stderr.splitlines() if "error" in line]

    jobs = [(variant, source) for variant in chosen or variants() for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [line for lines in pool.map(warnings, *zip(*jobs, strict=True)) for line in lines]
    formatter = shutil.which(
        "clang-format", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if formatter is not None:
        for path in sorted(SOURCE.iterdir()):
            done = subprocess.run([formatter, "--dry-run", "--Werror", str(path)], capture_output=True, check=False)
            found += [f"{path}: clang-format -i would change it"] if done.returncode else []
    return found


def main() -> int:
    """Builds what is missing, and says in one line what came of it; 1 where nothing could be built."""
    if sys.argv[1:] == ["--check"]:
        found = check()
        print("\n".join(found), end="\n" if found else "", file=sys.stderr)
        return 1 if found else 0
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    missing = tuple(variant for variant in variants() if not library_path(variant, folder).exists())
    if not missing:
        return 0
    try:
        made = build(folder, chosen=missing)
    except FileNotFoundError as error:
        print(
            f"kernels: {error}; everything works without them, on plain formulas, several times slower", file=sys.stderr
        )
        return 1
    except BuildError as error:
        print(f"kernels: {error}", file=sys.stderr)
        made = error.made
    if made:
        print(f"kernels: built {', '.join(path.stem[7:].partition('-')[0] for path in made)}")
    return 0 if made or len(missing) < len(variants()) else 1


if __name__ == "__main__":
    sys.exit(main())
