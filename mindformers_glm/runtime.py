"""The device, its mode, the seed and the rank. The only module that sets the MindSpore context.

MindSpore is imported when it is first needed, so that a configuration is read without it.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from mindformers_glm.errors import ConfigError, DeviceError

GRAPH_MODE, PYNATIVE_MODE = 0, 1  # MindSpore's own numbers
_MODES = {0: GRAPH_MODE, 1: PYNATIVE_MODE, "GRAPH_MODE": GRAPH_MODE, "PYNATIVE_MODE": PYNATIVE_MODE}
_TARGETS = ("CPU", "Ascend")
_WAIT_SECONDS = 1800  # for slower ranks, as HCCL does; MCCL gives up after 30, which a checkpoint can take
_LOST = re.compile(r"worker (\d+) is the first one timed out")  # MindSpore's scheduler, of a rank without heartbeat
_chosen: tuple[str, int | None] | None = None  # the device that set_up has selected


class Context(Protocol):
    """What is read of the section `context`: `config.context`, which has been checked."""

    @property
    def mode(self) -> int:
        """0 graph, 1 PyNative."""
        ...

    @property
    def device_target(self) -> str:
        """CPU or Ascend."""
        ...

    @property
    def device_id(self) -> int:
        """Number of the device."""
        ...

    @property
    def max_call_depth(self) -> int | None:
        """Of functions while a graph is compiled."""
        ...

    @property
    def max_device_memory(self) -> str | None:
        """Such as 30GB."""
        ...


class _Given(NamedTuple):
    """A context from Python."""

    mode: int
    device_target: str
    device_id: int = 0
    max_call_depth: int | None = None
    max_device_memory: str | None = None


def set_up(
    context: Context | Mapping[str, Any] | None = None, *, seed: int | None = None, use_parallel: bool = False
) -> None:
    """Selects mode and device, starts communication when asked, and seeds every generator.

    `context` is the section of that name, or a mapping with some of its keys. Keys that mean nothing on the chosen
    device are the configuration's affair (config/legacy.py) and are ignored here.

    Raises:
        ConfigError: an unknown mode or device name.
        DeviceError: the named device is not on this machine. Nothing is replaced silently.
    """
    import mindspore as ms  # noqa: PLC0415

    wanted = _checked(context or {}) if context is None or isinstance(context, Mapping) else context
    target = wanted.device_target
    require_device(target)
    device_id = _variable("DEVICE_ID", 0) if target == "Ascend" else 0
    ms.set_context(mode=wanted.mode)
    _choose_device(target, wanted.device_id if device_id is None else device_id)
    if wanted.max_call_depth:
        ms.set_recursion_limit(wanted.max_call_depth)
    if target == "Ascend" and wanted.max_device_memory and wanted.max_device_memory.endswith("GB"):
        ms.runtime.set_memory(max_size=wanted.max_device_memory)
    if use_parallel and rank_size() > 1:
        _start_communication()
    if seed is not None:
        set_seed(seed)


def _checked(context: Mapping[str, Any]) -> _Given:
    mode, target = context.get("mode", GRAPH_MODE), context.get("device_target", "CPU")
    if mode not in _MODES:
        raise ConfigError("context.mode", mode, "Use 0 (graph mode) or 1 (PyNative).")
    if target not in _TARGETS:
        raise ConfigError("context.device_target", target, f"Use one of {', '.join(_TARGETS)}.")
    depth, memory = context.get("max_call_depth"), context.get("max_device_memory")
    return _Given(
        mode=_MODES[mode],
        device_target=target,
        device_id=int(context.get("device_id") or 0),
        max_call_depth=int(depth) if depth else None,
        max_device_memory=str(memory) if memory else None,
    )


def set_up_if_needed() -> None:
    """Selects graph mode on this machine's device where `set_up` has not been called: MindSpore's own default is
    PyNative, in which generating is many times slower. `set_up({"mode": 1})` keeps PyNative.
    """
    if _chosen is None:
        set_up({"device_target": device_target()})


def require_device(target: str) -> None:
    """Raises DeviceError when MindSpore on this machine cannot drive `target`."""
    if target == "CPU":
        return
    import mindspore as ms  # noqa: PLC0415

    try:
        available = ms.hal.is_available(target)
    except (ValueError, RuntimeError):
        available = False
    if not available:
        raise DeviceError(
            f"context.device_target: got {target!r}, and this machine has no {target} device that MindSpore can use. "
            "Run on the CPU with --device_target CPU, or install the Ascend driver and CANN."
        )


def device_target() -> str:
    """The device in use: "CPU" or "Ascend"."""
    import mindspore as ms  # noqa: PLC0415

    return ms.get_context("device_target")


def is_graph_mode() -> bool:
    """True in graph mode, False in PyNative."""
    import mindspore as ms  # noqa: PLC0415

    return ms.get_context("mode") == GRAPH_MODE


def set_seed(seed: int) -> None:
    """Seeds MindSpore, NumPy and Python with a number from 0 to 2^31 - 1. Seed 0 is a seed like any other."""
    import mindspore as ms  # noqa: PLC0415

    ms.set_seed(seed)
    seed_python(seed)


def seed_python(seed: int) -> None:
    """Seeds NumPy and Python, all that draws numbers where MindSpore does not compute."""
    import numpy as np  # noqa: PLC0415

    np.random.seed(seed % 2**32)
    random.seed(seed)


def rank() -> int:
    """Number of this process among all, from RANK_ID or msrun's environment; 0 alone.

    Raises:
        ConfigError: the variable holds no number, or one beyond the processes that were started.
    """
    number = _variable("RANK_ID", 0)
    count = started_processes()
    if number is not None and count is not None and number >= count:
        fix = f"RANK_SIZE is {count}: the launcher numbers processes from 0 to {count - 1}."
        raise ConfigError("RANK_ID", os.environ["RANK_ID"], fix)
    return number or 0


def rank_size() -> int:
    """How many processes work together; 1 alone."""
    return started_processes() or 1


def started_processes() -> int | None:
    """How many processes a launcher started, from its environment; None when there was no launcher.

    A variable that is set and empty is as good as none.

    Raises:
        ConfigError: the variable holds no number above 0.
    """
    return _variable("RANK_SIZE", 1) or _variable("MS_WORKER_NUM", 1)


def _variable(name: str, least: int) -> int | None:
    """The whole number of an environment variable, None when it is unset or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        fix = f"This environment variable of the launcher holds a whole number of {least} or more: correct or unset it."
        raise ConfigError(name, text, fix)
    return int(text)


def wait_for_ever() -> None:
    """Ranks of a job wait for each other as long as it takes: a chat may be silent for hours. Before `set_up`."""
    os.environ["MS_CPU_COMM_OP_TIMEOUT"] = str(10**6)


def serve_as_scheduler() -> None:
    """Brings msrun's ranks together and returns when all have ended.

    Raises:
        DeviceError: a rank does not answer any more; it is named.
    """
    import mindspore as ms  # noqa: PLC0415
    from mindspore.communication import init  # noqa: PLC0415 - starts libraries when imported

    ms.set_device("CPU")  # whatever the ranks compute on
    try:
        init()
    except RuntimeError as error:
        lost = _LOST.search(str(error))
        if lost is None:
            raise
        cure = "Its process or its server is lost: look at its log, and start again with --resume_training true."
        raise DeviceError(f"rank {lost.group(1)} does not answer any more. {cure}") from error


def _choose_device(target: str, device_id: int) -> None:
    """Selects the device once; MindSpore refuses to hear it again after the first kernel."""
    import mindspore as ms  # noqa: PLC0415

    global _chosen
    wanted = (target, None if "MS_ROLE" in os.environ or target == "CPU" else device_id)
    if wanted == _chosen:
        return
    try:
        ms.set_device(*(part for part in wanted if part is not None))
    except RuntimeError as error:
        if device_target() != target:
            fix = "It can be chosen only before the first computation of a process: set it earlier."
            raise ConfigError("context.device_target", target, fix) from error
    _chosen = wanted


def _start_communication() -> None:
    from mindspore.communication import get_group_size, init  # noqa: PLC0415 - starts libraries when imported

    os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", str(_WAIT_SECONDS))
    init()
    os.environ["RANK_SIZE"] = str(get_group_size())
