"""Files that appear whole or not at all, whatever stops the process: an error, a full disk, SIGKILL, another run.

And small files read without trust: regular ones of a bounded size, JSON of any content, names that stay in a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mindformers_glm.errors import CheckpointError, ConfigError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; there an abandoned file is known by its age
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".tmp"
_ABANDONED_SECONDS = 24 * 3600
_SMALL_BYTES = 64 << 20  # the index of a model with 100,000 tensors is a tenth of this
_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")


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
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename, error.filename2 = str(path), None  # what was asked for, not the unfinished file
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a small UTF-8 text file atomically."""
    with atomic_write(path, "w") as file:
        file.write(text)


def user_path(path: Any) -> Path:
    """The path, with ~ as the user's home; a ~name of nobody stays as it is written.

    Raises:
        ConfigError: no path, but a value of another kind.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError("path", path, "Give a path or a name, as text.")
    return Path(os.path.expanduser(path))


def open_regular(path: str | Path) -> IO[bytes]:
    """A file open for reading, without buffer. A pipe, a device or a folder is refused and never waited for.

    Raises:
        CheckpointError: it is no regular file, or the system does not let it be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    raise CheckpointError(str(path), "it is no regular file (a folder, a pipe or a device)", "Name a file.")


def read_small(path: str | Path, *, limit: int = _SMALL_BYTES) -> bytes:
    """The content of a small regular file.

    Raises:
        CheckpointError: it cannot be read, is larger than `limit` bytes, or is a git-lfs pointer or a web page.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            fault = f"{size:,} bytes, and such a file has at most {limit:,}"
            raise CheckpointError(str(path), fault, "Is it another file?")
        try:
            content = b"".join(iter(lambda: file.read(1 << 20), b""))
        except OSError as error:
            raise _unreadable(path, error) from error
    refuse_stand_in(path, content[:256])
    return content


def read_json(path: str | Path, *, limit: int = _SMALL_BYTES) -> Any:
    """The value of a JSON file; a byte order mark at its start is accepted.

    Raises:
        CheckpointError: as `read_small`, or it is not JSON in UTF-8, or nested too deep to be read.
    """
    content = read_small(path, limit=limit)
    try:
        return parse_json(content)
    except ValueError as error:
        fault = f"something else than JSON ({' '.join(str(error).split())[:200]})"
        raise CheckpointError(str(path), fault, "Repair it, or download it again.") from error


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text from an unknown source.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested too deep to be read.
    """
    try:
        return json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None


def refuse_stand_in(path: str | Path, start: bytes) -> None:
    """Passes unless a file that begins so stands for another one: a git-lfs pointer, or a page of a web server.

    Raises:
        CheckpointError: says which, and how to get the file itself.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_LFS):
        fault = "a git-lfs pointer, not the file itself"
        raise CheckpointError(str(path), fault, "Run `git lfs pull` in the clone, or download the file.")
    if text.startswith(_PAGES):
        fault = "an HTML page (a login or an error of a web server), not the file itself"
        raise CheckpointError(str(path), fault, "Download it again, logged in or from another place.")


def plain_name(name: Any) -> bool:
    """True for a file name that a file may state and that stays inside the folder it is joined to."""
    return isinstance(name, str) and 0 < len(name) < 256 and name not in (".", "..") and not set(name) & set("/\\\0")


def inside(folder: str | Path, name: Any, *, told_by: str | Path) -> Path:
    """The path of a file that another file names; symbolic links may not lead out of the folder.

    Raises:
        CheckpointError: the name, or the link of that name, leads outside `folder`. Nothing there was opened.
    """
    path = Path(folder) / str(name)
    if not plain_name(name) or (path.is_symlink() and path.resolve().parent != Path(folder).resolve()):
        fault = f"it names a file outside its folder ({str(name)[:80]!r})"
        raise CheckpointError(str(told_by), fault, "Do not use this folder: download it again from a source you trust.")
    return path


@contextlib.contextmanager
def leaving_nothing(folder: str | Path) -> Iterator[None]:
    """Removes the files and folders that the block added to `folder`, and `folder` if it was new, when it raises."""
    folder = Path(folder)
    new = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    before = set(folder.rglob("*"))
    try:
        yield
    except BaseException:
        for path in sorted(set(folder.rglob("*")) - before, reverse=True) + new:
            with contextlib.suppress(OSError):  # what another process put there stays
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        raise


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


def _unreadable(path: str | Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    place = str(path) if len(str(path)) <= 200 else str(path)[:200] + "..."
    if isinstance(error, PermissionError):
        return CheckpointError(place, "it may not be read", "Give yourself the right to read it.")
    return CheckpointError(place, f"it cannot be read ({reason})", "Check the path and its permissions.")


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
