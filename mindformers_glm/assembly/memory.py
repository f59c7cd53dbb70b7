"""Whether what a configuration asks for fits into this machine's memory, before any of it is taken."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.interface import NetworkConfig

_SHARE = 0.5  # of the free memory that the table of positions may take: weights and a step need the rest
_HARMLESS = 256 << 20  # bytes that are never refused


def check_length(config: NetworkConfig, *, key: str = "seq_length") -> None:
    """Passes when the rotary table of `seq_length` positions fits into the free memory.

    Raises:
        ConfigError: it does not; the longest length that does is named.
    """
    position = 16 * config.kv_channels  # angles, cosines and sines in float64 while it is made, then in float32
    longest = max(int(available_bytes() * _SHARE), _HARMLESS) // position
    if config.seq_length > longest:
        raise ConfigError(key, config.seq_length, f"The memory that is free here is enough for {longest:,} tokens.")


def available_bytes() -> int:
    """Memory that this process can still get: what the machine has free, and not more than its own limit leaves."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    if sys.platform == "win32":
        return free
    import resource  # noqa: PLC0415 - not on Windows

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            free = min(free, max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0))
    return free
