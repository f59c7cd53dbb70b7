"""The features of this CPU. Standard library only: scripts/own_kernels.py runs it before anything is installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def features() -> frozenset[str]:
    """The names of its features as in /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.split())
