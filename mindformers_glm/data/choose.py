"""Own data at first try: where the configured loader cannot read a file, its columns choose loader and dataset."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.data.gather import INFO, sources
from mindformers_glm.data.hf_loader import HFDataLoader
from mindformers_glm.data.loaders import FileLoader
from mindformers_glm.data.recognised import AutoDataLoader, recognise
from mindformers_glm.data.source import suffix_of
from mindformers_glm.errors import DataError
from mindformers_glm.files import user_path
from mindformers_glm.log import logger
from mindformers_glm.registry import DATA_LOADERS, DATASETS

_DATASETS = {
    "pairs": "KeyWordGenDataset",
    "conversations": "MultiTurnDataset",
    "documents": "CausalLanguageModelDataset",
}
_TAKES = {  # dataset -> the rows that it makes samples of
    "KeyWordGenDataset": ("pairs",),
    "MultiTurnDataset": ("conversations", "pairs"),
    "CausalLanguageModelDataset": ("documents",),
}
_SHARED = ("phase", "shuffle", "num_samples", "num_shards", "shard_id", "max_bad_ratio", "version")


def chosen(section: Mapping[str, Any], task: str, key: str) -> tuple[dict[str, Any], str]:
    """Section and dataset class for the file that the section names.

    A loader that can read the file stays, and so does the dataset that takes its rows. Otherwise the loader is
    AutoDataLoader, and the dataset the one for its rows, with rows as long as those of the section; the log says so.
    """
    spec = section.get("data_loader")
    if not isinstance(spec, Mapping) or task not in _TAKES or spec.get("type") not in DATA_LOADERS:
        return dict(section), task
    kind = DATA_LOADERS.get(spec["type"])
    if kind is HFDataLoader:
        own = HFDataLoader.as_own_data(spec)
        if own is None:
            return dict(section), task
        spec = own
    elif kind is not AutoDataLoader:
        if not (isinstance(kind, type) and issubclass(kind, FileLoader)) or _reads(kind, spec):
            return dict(section), task
        given = {name: spec[name] for name in _SHARED if spec.get(name) is not None}
        spec = {"type": "AutoDataLoader", "dataset_dir": spec["dataset_dir"], **given}
    loader = DATA_LOADERS.build(spec, f"{key}.data_loader")
    used = task if loader.gives in _TAKES[task] else _DATASETS[loader.gives]
    if used != task:
        logger.info("%s: rows are %s, so %s makes samples of them (not %s)", key, loader.gives, used, task)
    return {**_fitting(section, used), "data_loader": loader}, used


def _reads(kind: type[FileLoader], spec: Mapping[str, Any]) -> bool:
    """Whether the configured loader is the one for this file; True where it shall say itself what is wrong."""
    path = spec.get("dataset_dir")
    if not isinstance(path, (str, Path)) or not path:
        return True
    place = user_path(path)
    try:
        if place.is_dir() or (place.parent / INFO).is_file():
            return False
        (source,) = sources(path, spec.get("phase", "train"))
        if suffix_of(source.file) == ".txt":
            return kind.gives == "documents"
        form = recognise(source)
    except (DataError, OSError, ValueError):
        return True
    return kind.fits(spec, form)


def _fitting(section: Mapping[str, Any], used: str) -> dict[str, Any]:
    """The keys of a section that the dataset takes, with its length from those of the section."""
    known = inspect.signature(DATASETS.get(used)).parameters
    given = {name: value for name, value in section.items() if name in known and value is not None}
    sides = [section.get(f"max_{side}_length") for side in ("source", "target")]
    length = section.get("max_seq_length") or section.get("seq_length")
    if length is None and None not in sides:
        length = sum(side for side in sides if side is not None) + 1
    if used == "MultiTurnDataset":
        given = {"overlong": "fit", **given}
    name = {"MultiTurnDataset": "max_seq_length", "CausalLanguageModelDataset": "seq_length"}.get(used)
    return given if name is None or length is None else {**given, name: length}
