"""What a report says of the machine that it comes from: no names of hosts or persons."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def machine() -> dict[str, str]:
    """Versions of what computes, and the kind of CPU."""
    return {"processor": platform.machine(), **{name: installed(name) or "absent" for name in ("mindspore", "numpy")}}


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it; None without one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
