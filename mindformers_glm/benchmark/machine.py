"""The limits of this machine, reading memory and multiplying float32 matrices, and the memory that a process holds."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import resource
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindformers_glm.ops.kernels.library import library
from mindformers_glm.ops.speed import best_seconds, matrix_speed

_READ_BYTES = 1 << 30  # several times what the caches of current CPUs hold


class Machine(NamedTuple):
    """Limits of the machine, measured beside the work with the same CPUs."""

    processor: str
    threads: int
    memory_bytes_per_s: float
    memory_read_by: str
    matrix_flop_per_s: float

    @classmethod
    def measure(cls, threads: int) -> Machine:
        """The best of several rounds of each, about two seconds in all."""
        speed, reader = memory_speed(threads)
        return cls(cpu_name(), threads, speed, reader, matrix_speed())


def memory_speed(threads: int) -> tuple[float, str]:
    """Bytes per second that all threads together can read, and what read them: the kernels, or NumPy without them."""
    numbers = np.ones(min(_READ_BYTES, _available_bytes() // 4) // 4, np.int32)
    kernels = library()
    if kernels is None:
        return numbers.nbytes / best_seconds(lambda: _read_with_numpy(numbers, threads)), "numpy"
    kernels.glm_read_memory.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return numbers.nbytes / best_seconds(lambda: kernels.glm_read_memory(numbers.ctypes.data, numbers.size)), "kernels"


def cpu_name() -> str:
    """The CPU as its maker calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def forget_peak() -> None:
    """Lets `peak_bytes` count from here on, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """The most memory that this process has held at once, since `forget_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def versions() -> dict[str, str]:
    """Of Python and of what computes."""
    from mindformers_glm.version import __version__  # noqa: PLC0415 - its name would hide ours

    try:
        mindspore = importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        mindspore = "not installed"
    return {
        "mindformers_glm": __version__,
        "mindspore": mindspore,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def kernel_name() -> str:
    """The build of the kernels in use, or "off"."""
    found = library()
    return "off" if found is None else Path(found._name).stem.removeprefix("libglm_").rpartition("-")[0]


def _read_with_numpy(numbers: np.ndarray, threads: int) -> None:
    workers = [
        threading.Thread(target=np.bitwise_xor.reduce, args=(part,)) for part in np.array_split(numbers, threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _available_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 2 * _READ_BYTES
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
