"""Files that appear whole or not at all, whatever stops the process: an error, a full disk, SIGKILL, another run."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; there an abandoned file is known by its age
    fcntl = None

_SUFFIX = ".tmp"
_ABANDONED_SECONDS = 24 * 3600


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb", *, encoding: str | None = None) -> Iterator[IO]:
    """A file to write to; it takes the name `path` when the block ends, and leaves no trace when the block raises.

    The data is on the disk before the name is, and the name before this returns. The old file stays until then.
    Files that a killed process left behind in the same folder are removed on the way.

    Raises:
        ValueError: a mode other than "w" and "wb".
        OSError: as for any write; `path` is then untouched.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write takes mode 'w' or 'wb', got {mode!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    encoding = encoding or ("utf-8" if mode == "w" else None)
    temporary, descriptor = _create(path)
    try:
        with os.fdopen(descriptor, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # while the lock is held, so that no sweeper takes it for abandoned
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a small UTF-8 text file atomically."""
    with atomic_write(path, "w") as file:
        file.write(text)


def sync_folder(folder: str | Path) -> None:
    """Makes names created or removed in `folder` survive a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(path: str | Path) -> bool:
    """True for the names that atomic_write gives to unfinished files."""
    name = Path(path).name
    return name.startswith(".") and name.endswith(_SUFFIX)


def remove_abandoned(folder: str | Path) -> list[Path]:
    """Removes unfinished files of processes that no longer live; files being written stay. Returns what went."""
    removed = []
    for path in Path(folder).glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # another process may sweep the same folder
            if _is_abandoned(path):
                path.unlink()
                removed.append(path)
    return removed


def claim(path: str | Path) -> int | None:
    """A handle that marks `path` as held by this process until `release` or its end; None when another holds it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(descriptor, wait=False) is False:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):  # its last holder may have removed it meanwhile
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def release(descriptor: int | None, path: str | Path) -> None:
    """Gives up a claim and removes its file, if that is still the file at `path`."""
    if descriptor is not None:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                os.unlink(path)
        os.close(descriptor)


def _create(path: Path) -> tuple[str, int]:
    """A new temporary file beside `path`, locked by this process for as long as it is open."""
    while True:
        name = str(path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}"))
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except FileExistsError:
            continue
        if _lock(descriptor, wait=True) is not True:
            return name, descriptor
        with contextlib.suppress(FileNotFoundError):  # a sweeper may have come between creating and locking
            if os.stat(name).st_ino == os.fstat(descriptor).st_ino:
                return name, descriptor
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """True when locked, False when another process holds it, None where locks do not exist."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


def _is_abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        locked = _lock(descriptor, wait=False)
        if locked is None:
            return time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_SECONDS
        return locked
    finally:
        os.close(descriptor)
