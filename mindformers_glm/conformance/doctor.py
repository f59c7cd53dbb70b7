"""Whether a machine has what the suite needs: one line for each thing, with what to do. MindSpore only in a process
of its own, so that a driver which ends it ends nothing else.

An examination takes a `Machine`, which tells where files lie and how programs are run: tests give another one.
"""

from __future__ import annotations

import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.conformance.doctor_ascend import cann, driver, network, rank_table
from mindformers_glm.conformance.environment import installed
from mindformers_glm.conformance.examination import FAIL, OK, WARN, Examination, Finding, Machine
from mindformers_glm.errors import UserError
from mindformers_glm.export.lite.interpreter import find_python
from mindformers_glm.ops.kernels import build
from mindformers_glm.ops.kernels.library import SWITCH, library_file
from mindformers_glm.requirements import PYTHONS

# package -> beginnings of the versions that the tests of this suite have run with, and whether it is needed to train
KNOWN = {
    "mindspore": (("2.10.",), True),
    "numpy": (("1.",), True),
    "pydantic": (("2.",), True),
    "pyyaml": (("6.",), True),
    "sentencepiece": (("0.",), True),
    "safetensors": (("0.",), True),
    "tqdm": (("4.",), True),
}
PORTS = {8118: "msrun", 8000: "mindformers-glm serve"}
_GIB = 1 << 30
_PROBE = """
import sys
import mindspore as ms
target = sys.argv[1]
ms.set_device(target)
print("computed", float((ms.Tensor([1.5], ms.float32) + 1).asnumpy()[0]), ms.__version__)
"""


def examine(target: str, machine: Machine | None = None) -> list[Finding]:
    """Every finding for work on `target` (CPU or Ascend)."""
    machine = machine or Machine()
    parts: list[Examination] = [python, packages, device]
    parts += [driver, cann, network] if target == "Ascend" else []
    parts += [rank_table, memory, disk, ports, *([kernels] if target == "CPU" else []), lite]
    return [finding for part in parts for finding in part(machine, target)]


def python(machine: Machine, target: str) -> Iterator[Finding]:
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.machine()}, {sys.executable}"
    wanted = " or ".join(".".join(map(str, version)) for version in PYTHONS)
    fits = tuple(sys.version_info[:2]) in PYTHONS
    yield Finding("Python", OK if fits else FAIL, found, f"use Python {wanted}")


def packages(machine: Machine, target: str) -> Iterator[Finding]:
    """What is installed, beside the versions known to fit."""
    for name, (known, needed) in KNOWN.items():
        found = installed(name)
        fitting = " or ".join(f"{part}x" for part in known)
        if found is None:
            yield Finding(name, FAIL if needed else WARN, "not installed", f"pip install '{name}=={known[0]}*'")
        elif found.startswith(known):
            yield Finding(name, OK, found)
        else:
            breaks = name == "numpy"  # MindSpore 2.10 loses its arrays of bfloat16 with NumPy 2
            cure = f"known to fit: {fitting}; pip install '{name}=={known[0]}*'"
            yield Finding(name, FAIL if breaks else WARN, found, cure)


def device(machine: Machine, target: str) -> Iterator[Finding]:
    """MindSpore computes a sum on the device, in a process of its own."""
    status, output = machine.run([sys.executable, "-c", _PROBE, target])
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if status == 0 and any(line.startswith("computed 2.5") for line in lines):
        yield Finding(f"MindSpore on {target}", OK, "computes")
        return
    told = [line for line in lines if "Error" in line or "ERROR" in line] or lines
    cure = {
        "Ascend": "source set_env.sh of CANN, and see the lines about driver and CANN below",
        "CPU": "pip install 'mindspore==2.10.*' for this Python and CPU",
    }[target]
    how = "no answer" if status is None else f"exit status {status}"
    yield Finding(f"MindSpore on {target}", FAIL, f"{how}: {told[-1][:200] if told else 'without a word'}", cure)


def memory(machine: Machine, target: str) -> Iterator[Finding]:
    """Main memory that is free: a 6B model in float16 takes 12.5 GB of it on its way to a device."""
    text = machine.text("/proc/meminfo") or ""
    line = next((line for line in text.splitlines() if line.startswith("MemAvailable")), "")
    if not line:
        yield Finding("memory", WARN, "/proc/meminfo does not tell", "compare with `mindformers-glm plan`")
        return
    free = int(line.split()[1]) * 1024 / _GIB
    level = FAIL if free < 1 else WARN if free < 16 else OK
    cure = "a 6B model in float16 takes 12.5 GB; end other programs, or use glm2_tiny and --dtype of quantize"
    yield Finding("memory", level, f"{free:.1f} GiB available", cure)


def disk(machine: Machine, target: str) -> Iterator[Finding]:
    """Space for checkpoints where one works, and for temporary files."""
    for name, folder, least in (("disk here", machine.folder, 30), ("disk for temporary files", Path("/tmp"), 2)):
        try:
            free = shutil.disk_usage(folder).free / _GIB
        except OSError as error:
            yield Finding(name, WARN, f"{folder}: {error.strerror}")
            continue
        level = FAIL if free < 0.5 else WARN if free < least else OK
        yield Finding(
            name,
            level,
            f"{free:.1f} GiB free",
            f"{least} GiB suffice for most; a 6B checkpoint with optimizer states takes 75 GB",
        )


def ports(machine: Machine, target: str) -> Iterator[Finding]:
    """Whether the usual ports are free."""
    for port, user in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                cure = f"another program has it: give {user} another port"
                yield Finding(f"port {port}", WARN, f"{error.strerror} ({user})", cure)
                continue
        yield Finding(f"port {port}", OK, f"free for {user}")


def kernels(machine: Machine, target: str) -> Iterator[Finding]:
    """The compiled kernels of a CPU."""
    if machine.environment.get(SWITCH) == "off":
        yield Finding("kernels", WARN, f"switched off by {SWITCH}", f"unset {SWITCH}")
        return
    try:
        found = library_file()
    except UserError as error:
        yield Finding("kernels", FAIL, str(error), "python -m mindformers_glm.ops.kernels.build")
        return
    cure = "python -m mindformers_glm.ops.kernels.build"
    if build.compiler() is None:
        cure += " (it needs g++ or clang++: none was found)"
    if found is None:
        yield Finding("kernels", WARN, "not built: formulas are used, several times slower", cure)
    else:
        yield Finding("kernels", OK, found.name)


def lite(machine: Machine, target: str) -> Iterator[Finding]:
    """A Python with MindSpore Lite: for exports alone."""
    try:
        yield Finding("MindSpore Lite", OK, find_python())
    except UserError as error:
        found, _, cure = str(error).partition(". ")
        yield Finding("MindSpore Lite", WARN, found, f"only to run exports: {cure}")


def plain(findings: Sequence[Finding], target: str) -> dict[str, Any]:
    """For JSON."""
    return {
        "device_target": target,
        "fit": all(finding.level != FAIL for finding in findings),
        "findings": [finding._asdict() for finding in findings],
    }
