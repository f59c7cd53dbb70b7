"""A folder of files that appears whole: written beside its place, resumable, named and hashed in a manifest at the end.

While it is written it is called `<name>.unfinished` and holds a journal of the files that are complete. Another start
with the same work goes on from there; the last step gives the folder its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.formats.blocks import HashingFile
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import (
    atomic_write,
    claim,
    inside,
    read_json,
    release,
    remove_abandoned,
    sync_folder,
    write_text,
)
from mindformers_glm.version import __version__

MANIFEST, JOURNAL, _LOCK = "manifest.json", "journal.json", ".lock"
UNFINISHED, PREVIOUS = ".unfinished", ".previous"
_FORMAT, _FORMAT_VERSION = "mindformers_glm checkpoint", 1
_PACKAGES = ("mindspore", "numpy", "safetensors", "sentencepiece")


class FolderWriter:
    """Writes the files of one folder. Use as a context; the folder has its name when the block ends without error.

    `work` identifies what is being written: files of an interrupted run are kept only when it is equal.
    """

    def __init__(self, out: str | Path, *, work: dict[str, Any], overwrite: bool = False) -> None:
        self.out = Path(out).resolve() if Path(out).is_symlink() else Path(out)
        self.folder = self.out.with_name(self.out.name + UNFINISHED)
        self.work, self.overwrite = json.loads(json.dumps(work)), overwrite
        self.files: dict[str, dict[str, Any]] = {}
        self._claim: int | None = None

    def __enter__(self) -> FolderWriter:
        check_free(self.out, overwrite=self.overwrite)
        if self.folder.is_symlink():
            fault = "the folder to write in is a link to another place"
            raise CheckpointError(str(self.folder), fault, "Remove the link, or choose another name.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim = claim(self.folder / _LOCK)
        except OSError as error:
            raise disk_fault(self.folder, error) from error
        if self._claim is None:
            raise CheckpointError(str(self.out), "another process is writing this folder", "Wait for it, or stop it.")
        try:
            self._take_up()
        except BaseException:
            release(self._claim, self.folder / _LOCK)
            raise
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as error:
            raise disk_fault(self.out, error) from error
        finally:
            release(self._claim, self.folder / _LOCK)

    def has(self, name: str) -> bool:
        """True when an interrupted run has written this file already."""
        row = self.files.get(name)
        path = self.folder / name
        return row is not None and path.is_file() and path.stat().st_size == row["bytes"]

    def add(self, name: str, write: Callable[[HashingFile], None]) -> None:
        """Writes one file through `write`, unless it is there already.

        Raises:
            CheckpointError: the disk is full or not writable. What is complete stays for the next run.
        """
        if self.has(name):
            return
        try:
            with atomic_write(self.folder / name) as file:
                hashing = HashingFile(file)
                try:
                    write(hashing)
                finally:
                    digest = hashing.hexdigest()
        except OSError as error:
            raise disk_fault(self.folder / name, error) from error
        self._record(name, hashing.size, digest)

    def _record(self, name: str, size: int, digest: str) -> None:
        self.files[name] = {"bytes": size, "sha256": digest}
        try:
            write_text(self.folder / JOURNAL, json.dumps({"work": self.work, "files": self.files}, indent=1))
        except OSError as error:
            raise disk_fault(self.folder / JOURNAL, error) from error

    def _take_up(self) -> None:
        remove_abandoned(self.folder)
        journal = _journal(self.folder)
        files = _rows(journal.get("files"), self.folder / JOURNAL) if journal else {}
        if journal.get("work") == self.work:
            self.files = files
            return
        for name in files:  # another run's files, ours by name
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def _finish(self) -> None:
        write_text(self.folder / MANIFEST, manifest_text(self.files, self.work.get("about", {})))
        (self.folder / JOURNAL).unlink(missing_ok=True)
        (self.folder / _LOCK).unlink(missing_ok=True)
        self._give_name()

    def _give_name(self) -> None:
        """Renames the finished folder; what had the name is moved aside first and removed last."""
        previous = self.out.with_name(self.out.name + PREVIOUS)
        if self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()
        elif self.out.exists():
            _remove_ours(previous)
            os.rename(self.out, previous)
        os.rename(self.folder, self.out)
        sync_folder(self.out.parent)
        _remove_ours(previous)


def _remove_ours(folder: Path) -> None:
    """Removes a folder that we wrote; one that was removed in part before is recognised by its manifest, kept to last.

    Raises:
        CheckpointError: the folder is there and is not ours.
    """
    if not folder.exists():
        return
    check_free(folder, overwrite=True)
    for name in (read_manifest(folder) or {"files": {}})["files"]:
        (folder / name).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    folder.rmdir()


def manifest_text(files: dict[str, dict[str, Any]], about: dict[str, Any]) -> str:
    """The manifest of a folder: what it is, the versions that wrote it, and size and SHA-256 of each file."""
    head = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **about, "versions": versions()}
    return json.dumps({**head, "files": dict(sorted(files.items()))}, indent=1)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Passes when `out` may be written: absent, empty, or a folder of ours that may be replaced.

    Raises:
        CheckpointError: something of the user's is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise CheckpointError(str(out), "it exists already", "Choose another name, or allow overwriting it.")
    if not out.is_dir() or read_manifest(out) is None or extra_files(out):
        raise CheckpointError(
            str(out),
            "it is not a checkpoint of ours, or holds other files as well",
            "Move it away, or choose another name.",
        )


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a folder that this program wrote, or None; `files` are names in the folder and nothing else.

    Raises:
        CheckpointError: it is damaged, or names a file outside the folder. Nothing that it names was opened.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        return None
    return {**manifest, "files": _rows(manifest.get("files"), path)}


def extra_files(folder: Path) -> list[str]:
    """Names in a folder that its manifest does not have."""
    manifest = read_manifest(folder) or {"files": {}}
    return sorted({path.name for path in folder.iterdir()} - set(manifest["files"]) - {MANIFEST})


def _journal(folder: Path) -> dict[str, Any]:
    """The journal of an interrupted run; empty when there is none that can be read."""
    try:
        value = read_json(folder / JOURNAL) if (folder / JOURNAL).is_file() else {}
    except CheckpointError:
        return {}
    return value if isinstance(value, dict) else {}


def _rows(files: Any, told_by: Path) -> dict[str, dict[str, Any]]:
    """The table of files in a manifest or journal.

    Raises:
        CheckpointError: it is no such table, or a name leads outside the folder.
    """
    damaged = CheckpointError(str(told_by), "its table of files is damaged", "Copy or download the folder again.")
    if not isinstance(files, dict):
        raise damaged
    for name, row in files.items():
        inside(told_by.parent, name, told_by=told_by)
        size = row.get("bytes") if isinstance(row, dict) else None
        if type(size) is not int or size < 0 or not isinstance(row.get("sha256"), str):
            raise damaged
    return dict(files)


def versions() -> dict[str, str]:
    """Versions of this program and of what it stands on."""
    from importlib import metadata  # noqa: PLC0415 - for what is written alone

    found = {"mindformers_glm": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def disk_fault(path: str | Path, error: OSError) -> CheckpointError:
    """The error of a write that the system refused."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CheckpointError(str(path), f"could not be written ({reason})", "Free disk space or repair the folder.")
