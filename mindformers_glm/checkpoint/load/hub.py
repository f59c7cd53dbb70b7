"""Models from a Hugging Face compatible hub or from ModelScope: size said first, resumable, every byte checked.

HF_ENDPOINT names another hub (a mirror, a server on the own network). Remote code is never fetched.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.checkpoint.formats.blocks import BLOCK_BYTES
from mindformers_glm.checkpoint.formats.folder import MANIFEST, UNFINISHED, manifest_text
from mindformers_glm.errors import CheckpointError, DeviceError
from mindformers_glm.files import sync_folder, write_text
from mindformers_glm.log import logger

_SMALL = ("config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "adapter_config.json")
_SAFE = ("*.safetensors", "*.safetensors.index.json")
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
_MODELSCOPE_OWNERS = {"THUDM": "ZhipuAI", "zai-org": "ZhipuAI"}


class RemoteFile(NamedTuple):
    """A file of a repository: its size, and its SHA-256 or, for small files, the hash that git gives it."""

    name: str
    size: int | None
    sha256: str | None
    git_sha1: str | None


def download_model(
    repository: str,
    folder: str | Path,
    *,
    source: str | Sequence[str] = "hub",
    revision: str | None = None,
    only: Sequence[str] | None = None,
) -> Path:
    """Fetches configuration, tokenizer and weights of a repository into `folder`, which appears when all is right.

    An interrupted download goes on where it stopped. `source` is "hub" or "modelscope", or both in the order in which
    they are tried. `only` names the files to fetch instead, all of them.

    Raises:
        CheckpointError: no such repository, no connection, not enough disk, or a file whose hash differs.
        DeviceError: the package for it is not installed.
    """
    folder, sources = Path(folder), [source] if isinstance(source, str) else list(source)
    for number, place in enumerate(sources):
        try:
            return _download(repository, folder, place, revision, only)
        except Unreachable as error:
            if number + 1 == len(sources):
                raise _failed(repository, [*sources[:number], place], error) from error
            logger.warning("%s cannot be reached (%s); trying %s", place, error, sources[number + 1])
    raise ValueError("download_model needs a source")


def _download(repository: str, folder: Path, source: str, revision: str | None, only: Sequence[str] | None) -> Path:
    work = folder.with_name(folder.name + UNFINISHED)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(str(work), f"cannot be made ({error.strerror})", "Start in a folder of yours.") from error
    fetch = {"hub": from_hub, "modelscope": from_modelscope}[source]
    try:
        files = fetch(repository, work, revision, only)
    except BaseException:
        with contextlib.suppress(OSError):  # nothing came
            work.rmdir()
        raise
    rows = {file.name: _checked(work, file) for file in files}
    shutil.rmtree(work / ".cache", ignore_errors=True)
    about = {"form": "downloaded", "repository": repository, "source": source}
    write_text(work / MANIFEST, manifest_text(rows, about))
    os.rename(work, folder)
    sync_folder(folder.parent)
    logger.info("Downloaded %s to %s", repository, folder)
    return folder


class Unreachable(Exception):
    """A hub that did not answer, or not as it should."""


def wanted(names: Iterable[str]) -> list[str]:
    """What to fetch of a repository's files: safetensors where there are any, otherwise .bin; never code."""
    names = [name for name in names if "/" not in name]
    safe = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in _SAFE)]
    weights = safe or [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in _PICKLED)]
    return [name for name in names if name in _SMALL] + weights


def from_hub(repository: str, work: Path, revision: str | None, only: Sequence[str] | None) -> list[RemoteFile]:
    """Fetches the files of a repository from the Hugging Face hub into `work`; what was announced of them."""
    try:
        import huggingface_hub as hub  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _extra("huggingface_hub", "hub") from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        found = hub.HfApi(endpoint=endpoint).model_info(repository, revision=revision, files_metadata=True)
        files = _chosen(repository, [_remote(row) for row in found.siblings or []], work, only)
        for file in files:
            hub.hf_hub_download(
                repository, file.name, revision=found.sha or revision, local_dir=str(work), endpoint=endpoint
            )
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - the package's errors differ between its versions
        raise Unreachable(f"{endpoint or 'huggingface.co'}: {_reason(error)}") from error
    return files


def from_modelscope(repository: str, work: Path, revision: str | None, only: Sequence[str] | None) -> list[RemoteFile]:
    """The same from ModelScope."""
    try:
        from modelscope.hub.api import HubApi  # noqa: PLC0415 - an extra
        from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415
    except ImportError as error:
        raise _extra("modelscope", "modelscope") from error
    owner, _, name = repository.partition("/")
    repository = f"{_MODELSCOPE_OWNERS.get(owner, owner)}/{name}"
    try:
        files = _modelscope_files(HubApi(), repository, revision)
        files = _chosen(repository, files, work, only)
        snapshot_download(
            repository, revision=revision, local_dir=str(work), allow_patterns=[file.name for file in files]
        )
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - the package raises what its transport raises
        raise Unreachable(f"modelscope.cn: {_reason(error)}") from error
    return files


def _modelscope_files(api: Any, repository: str, revision: str | None) -> list[RemoteFile]:
    """What a repository holds; since 1.40 the public method leaves out the hashes that the hub tells."""
    inner = getattr(api, "_api", None)
    if inner is not None and hasattr(inner, "list_repo_files"):
        found = inner.list_repo_files(repository, "model", revision=revision, recursive=False)
        return [RemoteFile(row.path, row.size, getattr(row, "sha256", None), None) for row in found]
    rows = api.get_model_files(repository, revision=revision, recursive=False)
    return [RemoteFile(row["Path"], row.get("Size"), row.get("Sha256"), None) for row in rows]


def _remote(row: Any) -> RemoteFile:
    lfs = row.lfs
    return RemoteFile(row.rfilename, row.size, lfs.sha256 if lfs else None, None if lfs else row.blob_id)


def _chosen(repository: str, files: list[RemoteFile], work: Path, only: Sequence[str] | None) -> list[RemoteFile]:
    names = set(wanted(file.name for file in files)) if only is None else set(only)
    chosen = [file for file in files if file.name in names]
    if only is None and not any(file.name not in _SMALL for file in chosen):
        raise CheckpointError(repository, "the repository has no weights", "Check its name.")
    if only is not None and not chosen:
        raise CheckpointError(repository, f"the repository has none of {', '.join(only)}", "Check its name.")
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    needed = sum(file.size or 0 for file in chosen) - there
    free = shutil.disk_usage(work).free
    if needed > free:
        raise CheckpointError(str(work), f"{needed:,} bytes are needed and {free:,} free", "Free disk space.")
    told = f", {there:,} of them here already" if there else ""
    place = work.with_name(work.name.removesuffix(UNFINISHED))
    logger.warning(
        "Downloading %s: %d files, %s bytes%s, to %s (MINDFORMERS_GLM_DOWNLOAD=0 forbids downloads)",
        *(repository, len(chosen), f"{needed + there:,}", told, place),
    )
    return chosen


def _checked(work: Path, file: RemoteFile) -> dict[str, Any]:
    """The manifest's row of a file whose bytes are those that the hub announced; a wrong file is removed."""
    path = work / file.name
    size = path.stat().st_size if path.is_file() else -1
    sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if path.is_file():
        with open(path, "rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                sha256.update(block)
                if file.git_sha1:
                    git.update(block)
    wrong = file.size not in (None, size)
    wrong = wrong or (file.sha256 is not None and sha256.hexdigest() != file.sha256)
    wrong = wrong or (file.git_sha1 is not None and git.hexdigest() != file.git_sha1)
    if wrong:
        path.unlink(missing_ok=True)
        raise CheckpointError(
            str(path), "the bytes are not those that the hub announced", "It was removed: start the download again."
        )
    return {"bytes": size, "sha256": sha256.hexdigest()}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _failed(repository: str, places: Sequence[str], error: Exception) -> CheckpointError:
    names = " and ".join("ModelScope" if place == "modelscope" else "the hub" for place in places)
    return CheckpointError(
        repository,
        f"could not be fetched from {names} ({error})",
        "Check the name and the connection (HF_ENDPOINT names another hub), or give a path to the model's files. What "
        "was fetched is kept.",
    )


def _extra(package: str, extra: str) -> DeviceError:
    return DeviceError(f"Downloading needs {package}: pip install 'mindformers_glm[{extra}]', or give a path.")
