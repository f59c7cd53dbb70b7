"""From what a user writes - a registered name, a file, a folder, a hub repository - to files on this disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.checkpoint.folders import require_weights, snapshot
from mindformers_glm.checkpoint.model_files import ModelFiles, model_files
from mindformers_glm.checkpoint.peft import CONFIG as ADAPTER_CONFIG
from mindformers_glm.checkpoint.source import WeightSource, read_weights
from mindformers_glm.config.names import ASSETS, DOWNLOAD_DIR, MODEL_NAMES, ModelName, model_name
from mindformers_glm.errors import CheckpointError, ConfigError

ACCEPT = "MINDFORMERS_GLM_DOWNLOAD"  # in the environment: 1, hub or modelscope accepts downloads for every command
_SOURCES = ("hub", "modelscope")


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


def resolve(name_or_path: str | Path, *, download: bool | str = False) -> Resolved:
    """The weights that a name or path means, with the configuration and tokenizer beside them.

    A path wins over a name. A registered name is looked for in the package (glm2_tiny) and in `checkpoint_download/`;
    what is missing is fetched only with `download` (or MINDFORMERS_GLM_DOWNLOAD in the environment): True or "hub" from
    a Hugging Face compatible hub, "modelscope" from ModelScope.

    Raises:
        CheckpointError: nothing there, and downloading was not asked for.
        ConfigError: neither a path nor a name.
    """
    path = Path(name_or_path).expanduser()
    if os.path.exists(path):  # unlike Path.exists, no error for a name that no file can have
        return _at(str(name_or_path), path)
    name = str(name_or_path).removeprefix("mindspore/").removeprefix("MindSpore-Lab/")
    hub_id = name if "/" in name else model_name(name, "checkpoint_name_or_path").hub_id
    here = _downloaded(name)
    if here is not None:
        return _at(name, here)
    source = _source(download or os.environ.get(ACCEPT, ""))
    if source is None or hub_id is None:
        raise _absent(name, hub_id)
    from mindformers_glm.checkpoint.hub import download_model  # noqa: PLC0415 - the package behind it is optional

    return _at(name, download_model(hub_id, folder_of(name), source=source))


def resolve_weights(name_or_path: str | Path, *, download: bool | str = False) -> Path:
    """The path of the weights alone; see `resolve`."""
    return resolve(name_or_path, download=download).weights


def _source(asked: bool | str) -> str | None:
    """Where to fetch from; None when nobody asked."""
    if asked in (False, "", "0"):
        return None
    if asked in (True, "1"):
        return "hub"
    if asked not in _SOURCES:
        raise ConfigError("download", asked, f"Use one of {', '.join(_SOURCES)}.")
    return str(asked)


def folder_of(name: str) -> Path:
    """Where a downloaded model of this name belongs: checkpoint_download/<family>/<name>."""
    row = MODEL_NAMES.get(name)
    return DOWNLOAD_DIR / (row.family if row else "hub") / name.replace("/", "--")


def _at(name: str, path: Path) -> Resolved:
    path = snapshot(path)
    if path.is_dir():
        require_weights(path)
    folder = path if path.is_dir() else path.parent
    is_adapter = (folder / ADAPTER_CONFIG).is_file() and (path.is_dir() or path.name.startswith("adapter_model."))
    adapter = folder if is_adapter else None
    return Resolved(name, path, model_files(path), adapter)


def _downloaded(name: str) -> Path | None:
    """A copy in the package, in a folder of the name, or where MindFormers downloaded it (<family>/<name>.ckpt)."""
    row: ModelName | None = MODEL_NAMES.get(name)
    candidates = [ASSETS / name, folder_of(name)]
    if row is not None:
        candidates.append(DOWNLOAD_DIR / row.family / f"{name}.ckpt")
    return next((path for path in candidates if path.exists()), None)


def _absent(name: str, hub_id: str | None) -> CheckpointError:
    places = f"{folder_of(name)} or {folder_of(name)}.ckpt"
    if hub_id is None:
        return CheckpointError(name, "the weights are not in this installation", "Install the package again.")
    return CheckpointError(
        name,
        f"the weights are not on this machine ({places})",
        f"Give a path, or accept the download of {hub_id} with {ACCEPT}=1 or download=True.",
    )
