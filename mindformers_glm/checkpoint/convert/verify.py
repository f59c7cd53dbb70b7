"""Is a checkpoint on disk what was written? Manifest against bytes, checksums, structure."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.checkpoint.formats.blocks import BLOCK_BYTES, sha256_of
from mindformers_glm.checkpoint.formats.folder import JOURNAL, extra_files, read_manifest
from mindformers_glm.checkpoint.formats.mindspore_ckpt import crc_of
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError


class Verdict(NamedTuple):
    """`faults` is empty when everything agrees; `checked` says what was compared, `notes` what could not be."""

    checked: list[str]
    faults: list[str]
    notes: list[str]


def verify(path: str | Path, *, progress: Callable[[int], None] = lambda done: None) -> Verdict:
    """Compares a folder with its manifest, a .ckpt with its checksum, and every file with its own table.

    Raises:
        CheckpointError: there is nothing at `path`.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(str(path), "there is no such file or folder", "Check the path of the checkpoint.")
    if (path / JOURNAL).is_file():
        return Verdict([], [f"{path}: the conversion is not finished; run it again"], [])
    manifest = read_manifest(path) if path.is_dir() else None
    verdict = Verdict([], [], [])
    if manifest is not None:
        for name, row in manifest["files"].items():
            _check_file(path / name, row, verdict, progress)
        extra = extra_files(path)
        if extra:
            verdict.notes.append(f"not in the manifest: {', '.join(extra)}")
    else:
        verdict.notes.append("no manifest: sizes and structure are checked, not every byte")
    _check_structure(path, verdict, progress)
    return verdict


def _check_file(path: Path, row: dict, verdict: Verdict, progress: Callable[[int], None]) -> None:
    if not path.is_file():
        verdict.faults.append(f"{path.name}: missing")
    elif path.stat().st_size != row["bytes"]:
        verdict.faults.append(f"{path.name}: {path.stat().st_size:,} bytes, the manifest says {row['bytes']:,}")
    elif sha256_of(path) != row["sha256"]:
        verdict.faults.append(f"{path.name}: the bytes differ from the manifest (SHA-256)")
    else:
        verdict.checked.append(f"{path.name}: {row['bytes']:,} bytes, SHA-256 agrees")
    progress(row["bytes"])


def _check_structure(path: Path, verdict: Verdict, progress: Callable[[int], None]) -> None:
    try:
        source = read_weights(path)
    except CheckpointError as error:
        verdict.faults.append(str(error))
        return
    verdict.checked.append(f"{len(source.names)} tensors lie inside their files")
    for file in source.files:
        if file.format == "ckpt" and (stored := crc_of(file.path)) is not None:
            agrees = _crc32(file.path, progress) == stored
            (verdict.checked if agrees else verdict.faults).append(
                f"{file.path.name}: the checksum of MindSpore {'agrees' if agrees else 'differs: the file is damaged'}"
            )


def _crc32(path: Path, progress: Callable[[int], None]) -> int:
    left, value = path.stat().st_size - 17, 0
    with open(path, "rb") as file:
        while left and (block := file.read(min(BLOCK_BYTES, left))):
            value = zlib.crc32(block, value)
            left -= len(block)
            progress(len(block))
    return value


def bytes_to_check(path: str | Path) -> int:
    """How much `verify` will read, for a progress bar."""
    manifest = read_manifest(path) if Path(path).is_dir() else None
    if manifest is not None:
        return sum(row["bytes"] for row in manifest["files"].values())
    return Path(path).stat().st_size if Path(path).is_file() else 0
