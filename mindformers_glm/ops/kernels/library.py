"""The compiled kernels that fit this CPU, or None. If MindSpore is imported, its device and threads count."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once
from mindformers_glm.ops.kernels.cpu import features
from mindformers_glm.ops.kernels.structures import differences

SWITCH = "GLM_KERNELS"  # environment variable: auto, off, or the name of a variant


def library() -> ctypes.CDLL | None:
    """The library, with as many threads as MindSpore's setting says; None on another device, or if it is not built.

    `GLM_KERNELS=off` selects the formulas, a name such as `GLM_KERNELS=avx2` the build for an older CPU.

    Raises:
        ConfigError: the variable names a build that is not there or does not run on this CPU.
    """
    mindspore = sys.modules.get("mindspore")
    if mindspore is not None and mindspore.get_context("device_target") != "CPU":
        return None
    found = load_variant(os.environ.get(SWITCH, "auto"))
    if found is not None:
        found.glm_set_threads(num_threads())
    return found


def library_file() -> Path | None:
    """The file that `library` has loaded, for operators that MindSpore opens by path."""
    found = library()
    return None if found is None else Path(found._name)


def num_threads() -> int:
    """Threads that a kernel may use: MindSpore's runtime_num_threads, at most the CPUs of this process.

    A lower OMP_NUM_THREADS counts: the launch scripts set it to the share of the machine that a process has.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    share = int(wanted) if wanted.isdecimal() else sys.maxsize
    mindspore = sys.modules.get("mindspore")
    told = sys.maxsize if mindspore is None else mindspore.get_context("runtime_num_threads")
    return max(1, min(told, len(os.sched_getaffinity(0)), share))


@cache
def load_variant(wanted: str) -> ctypes.CDLL | None:
    """The library of a variant, "auto" for the best that this CPU can run, "off" for none; loaded once."""
    from mindformers_glm.ops.kernels import build  # noqa: PLC0415 - it is a program too: `python -m`

    if wanted == "off":
        return None
    fitting = [variant for variant in build.variants() if set(variant.features) <= features()]
    if wanted != "auto":
        fitting = [variant for variant in fitting if variant.name == wanted]
        if not fitting:
            names = ", ".join(variant.name for variant in build.variants())
            raise ConfigError(SWITCH, wanted, f"Use auto, off, or one of {names} that this CPU has.")
    there = [path for variant in fitting if (path := build.library_path(variant)).exists()]
    if not there:
        if wanted != "auto":
            raise ConfigError(SWITCH, wanted, "It is not built: python -m mindformers_glm.ops.kernels.build")
        log_once(
            "The kernels for this CPU are not built: formulas are used, several times slower. With a C++ "
            "compiler: python -m mindformers_glm.ops.kernels.build"
        )
        return None
    found = _open(there[0], wanted)
    if found is not None:
        declare(found)
    return found


def _open(path: Path, wanted: str) -> ctypes.CDLL | None:
    again = "Build it on this machine: python -m mindformers_glm.ops.kernels.build"
    try:
        found = ctypes.CDLL(str(path))
        found.glm_structures.restype = ctypes.c_char_p
        other = differences(found.glm_structures().decode())
        fault = f"it lays out {', '.join(other)} otherwise than this package" if other else None
    except (OSError, AttributeError) as error:
        fault = str(error)
    if fault is None:
        return found
    if wanted != "auto":
        raise ConfigError(SWITCH, wanted, f"It does not load: {fault}. {again}")
    log_once(f"{path} does not load ({fault}): formulas are used, several times slower. {again}")
    return None


def declare(found: ctypes.CDLL) -> None:
    """Declares the types of arguments and results to ctypes."""
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    found.glm_new_workspace.restype = pointer
    found.glm_free_workspace.argtypes = [pointer]
    found.glm_set_threads.argtypes = [ctypes.c_int]
    found.glm_forward.argtypes = [pointer] * 3
    found.glm_linear.argtypes = [pointer, size, pointer, pointer, pointer]
    found.glm_pack.argtypes = [pointer] * 3
    found.glm_choose.argtypes = [pointer, size, pointer, size]
    found.glm_block_bytes.argtypes = [pointer, ctypes.c_int32]
    found.glm_block_bytes.restype = size
    found.glm_tokens_as_alone.argtypes = [pointer]
    found.glm_tokens_as_alone.restype = size
    found.glm_read_cache.argtypes = [pointer, ctypes.c_int32, pointer, size, pointer, pointer]
