"""From what a user writes - a registered name, a file, a folder, a hub repository - to files on this disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.checkpoint.load.folders import require_weights, snapshot
from mindformers_glm.checkpoint.load.model_files import ModelFiles, model_files
from mindformers_glm.checkpoint.load.peft import CONFIG as ADAPTER_CONFIG
from mindformers_glm.checkpoint.load.run_folder import network_folder
from mindformers_glm.checkpoint.load.source import WeightSource, read_weights
from mindformers_glm.config.names import ASSETS, DOWNLOAD_DIR, MODEL_NAMES, ModelName, model_name
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path

ACCEPT = "MINDFORMERS_GLM_DOWNLOAD"  # in the environment: 0 forbids downloads, hub or modelscope is where from
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # the switches that users of transformers know
_SOURCES = ("hub", "modelscope")
_OWNERS = ("THUDM", "zai-org", "ZhipuAI")  # who publishes GLM: an id of theirs is a public model, not a mistyped path
_MARKED = ("mindspore/", "MindSpore-Lab/")


class Resolved(NamedTuple):
    """Where the parts of a model lie. `adapter` is the folder of a PEFT adapter, whose `weights` are then its own."""

    name: str
    weights: Path
    files: ModelFiles
    adapter: Path | None = None

    def read(self, *, rank: int = 0) -> WeightSource:
        """The weights, with rows and parts put as the official model has them where the YAML says they are not."""
        config, storage = self.files.config, self.files.storage
        return read_weights(self.weights, rank=rank, rearranged=config if storage.use_rearrange_rope else None)


def resolve(name_or_path: str | Path, *, download: bool | str | None = None, revision: str | None = None) -> Resolved:
    """The weights that a name or path means, with the configuration and tokenizer beside them.

    A path wins over a name. A registered name is looked for in the package (glm2_tiny) and in `checkpoint_download/`.
    A public model that is not there is fetched, as naming it asks for: from a Hugging Face compatible hub, and from
    ModelScope where that cannot be reached. `download` False or MINDFORMERS_GLM_DOWNLOAD=0 (or HF_HUB_OFFLINE=1)
    forbids it, "hub" or "modelscope" in either says from where, and True fetches repositories of any owner.

    Raises:
        CheckpointError: nothing there, and it cannot or may not be fetched.
        ConfigError: neither a path nor a name.
    """
    path = user_path(name_or_path)
    if os.path.exists(path):  # unlike Path.exists, no error for a name that no file can have
        return _at(str(name_or_path), path)
    name = plain_name(name_or_path)
    hub_id = hub_id_of(name)
    here = downloaded(name)
    if here is not None:
        return _at(name, here)
    sources = sources_of(download, hub_id)
    if not sources or hub_id is None:
        raise _absent(name, hub_id)
    from mindformers_glm.checkpoint.load.hub import download_model  # noqa: PLC0415 - its clients take a second to import

    return _at(name, download_model(hub_id, folder_of(name), source=sources, revision=revision))


def resolve_weights(name_or_path: str | Path, *, download: bool | str | None = None) -> Path:
    """The path of the weights alone; see `resolve`."""
    return resolve(name_or_path, download=download).weights


def plain_name(name_or_path: str | Path) -> str:
    """A name without the owner that MindFormers wrote before its own."""
    name = str(name_or_path)
    for mark in _MARKED:
        name = name.removeprefix(mark)
    return name


def hub_id_of(name: str) -> str | None:
    """The repository of a registered name, or the id itself; None for what comes with the package.

    Raises:
        ConfigError: neither a registered name nor an id.
    """
    return name if "/" in name else model_name(name, "checkpoint_name_or_path").hub_id


def row_of(name: str, key: str) -> ModelName | None:
    """The row of a registered name or of its repository's id; None for the id of another repository.

    Raises:
        ConfigError: neither.
    """
    if "/" in name:
        return next((row for row in MODEL_NAMES.values() if row.hub_id == name), None)
    return model_name(name, key)


def sources_of(download: bool | str | None, hub_id: str | None) -> tuple[str, ...]:
    """Where a repository may be fetched from, in this order; empty where it may not."""
    told = os.environ.get(ACCEPT, "")
    offline = any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in _OFFLINE)
    if hub_id is None or download is False or (download in (None, True) and (told == "0" or offline)):
        return ()
    asked = told if download in (None, True) else download
    if asked in ("", "1"):
        is_public = hub_id.partition("/")[0] in _OWNERS and hub_id.count("/") == 1
        return _SOURCES if download is True or asked == "1" or is_public else ()
    if asked not in _SOURCES:
        raise ConfigError(ACCEPT if download in (None, True) else "download", asked, f"Use 0, {' or '.join(_SOURCES)}.")
    return (str(asked),)


def folder_of(name: str) -> Path:
    """Where a downloaded model of this name belongs: checkpoint_download/<family>/<name>."""
    row = MODEL_NAMES.get(name)
    return DOWNLOAD_DIR / (row.family if row else "hub") / name.replace("/", "--")


def downloaded(name: str) -> Path | None:
    """A copy in the package, in a folder of the name, or where MindFormers downloaded it (<family>/<name>.ckpt).

    A registered name and the id of its repository are the same model.
    """
    row: ModelName | None = MODEL_NAMES.get(name)
    same = [row.hub_id] if row else [other for other, known in MODEL_NAMES.items() if known.hub_id == name]
    candidates = [ASSETS / name, folder_of(name)]
    if row is not None:
        candidates.append(DOWNLOAD_DIR / row.family / f"{name}.ckpt")
    candidates += [folder_of(other) for other in same if other]
    return next((path for path in candidates if path.exists()), None)


def _at(name: str, path: Path) -> Resolved:
    path = snapshot(path)
    if path.is_dir():
        path = network_folder(path) or path
        require_weights(path)
    folder = path if path.is_dir() else path.parent
    is_adapter = (folder / ADAPTER_CONFIG).is_file() and (path.is_dir() or path.name.startswith("adapter_model."))
    adapter = folder if is_adapter else None
    return Resolved(name, path, model_files(path), adapter)


def _absent(name: str, hub_id: str | None) -> CheckpointError:
    places = f"{folder_of(name)} or {folder_of(name)}.ckpt"
    if hub_id is None:
        return CheckpointError(name, "the weights are not in this installation", "Install the package again.")
    if "/" in name and hub_id.partition("/")[0] not in _OWNERS:
        fix = f"Check the path; if it is the id of a repository, allow the download with {ACCEPT}=1 or download=True."
        return CheckpointError(name, "there is no such file or folder", fix)
    return CheckpointError(
        name,
        f"the weights are not on this machine ({places}), and downloads are switched off",
        f"Give a path, or allow the download of {hub_id} with {ACCEPT}=1 or download=True.",
    )
