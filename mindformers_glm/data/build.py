"""A dataset from the sections of a configuration: `train_dataset` with `train_dataset_task`, and the same for eval."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mindformers_glm.config.schema import DatasetSection, DatasetTaskSection
from mindformers_glm.config.spec import Spec
from mindformers_glm.data.choose import chosen
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.data.packing import PackedDataset
from mindformers_glm.data.preview import first_sample
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger
from mindformers_glm.registry import DATASETS

_PHASES = ("train", "eval")


def build_dataset(
    section: DatasetSection | Mapping[str, Any] | None,
    *,
    task: DatasetTaskSection | Mapping[str, Any],
    seed: int | None,
    rank: int = 0,
    rank_size: int = 1,
    batch_size: int | None = None,
    phase: str = "train",
    tokenizer: Any = None,
    labels: bool | None = None,
) -> TokenDataset:
    """The dataset that `section` describes, of the kind that `task` names, for one rank.

    The sections of a run's configuration have been checked and are not checked again; those of a mapping are.
    `batch_size` and `seed` of the run replace those of the section, as in MindFormers. `phase` only fills in
    where the data loader names none. `tokenizer`, when given, replaces the section's. `labels` says what an evaluation
    does with the rows, whatever phase the loader names: True computes their loss (rows as in training), False
    generates after their prompts.
    The sections are not changed.

    Raises:
        ConfigError: a key is wrong; it is named from the root of the configuration.
        DataError: the file is missing, or nothing in it can be used.
    """
    key = f"{phase}_dataset"
    if phase not in _PHASES:
        raise ConfigError("phase", phase, "Use train or eval.")
    is_checked = isinstance(section, DatasetSection)
    given, kind = _described(section, task, key)
    runtime: dict[str, Any] = {"rank": rank, "rank_size": rank_size}
    if seed is not None:
        runtime["seed"] = seed
    if batch_size is not None:
        runtime["batch_size"] = batch_size
    if tokenizer is not None:
        runtime["tokenizer"] = tokenizer
    given["data_loader"] = _with_phase(given.get("data_loader"), phase, labels, key)
    given, kind = chosen(given, kind, key)
    for name, value in getattr(_class_of(kind), "in_a_run", {}).items():
        if given.get(name) is None:
            given[name] = value
    if labels is False and "generates" in inspect.signature(_class_of(kind)).parameters:
        given["generates"] = True
    spec = {name: value for name, value in given.items() if name not in runtime and value is not None}
    try:
        dataset = (DATASETS.create if is_checked else DATASETS.build)({**spec, "type": kind}, key, **runtime)
    except ConfigError as error:
        if error.key.startswith(key):
            raise
        raise ConfigError(f"{key}.{error.key}", error.got, error.fix) from error
    strategy = getattr(dataset, "packing", None) if phase == "train" else None
    if isinstance(strategy, str):
        dataset = PackedDataset(dataset, strategy=strategy)
    if phase == "train" and rank == 0:
        for line in first_sample(dataset):
            logger.info("%s", line)
    return dataset


def _described(
    section: DatasetSection | Mapping[str, Any] | None, task: DatasetTaskSection | Mapping[str, Any], key: str
) -> tuple[dict[str, Any], str]:
    """The arguments of the dataset, and its class."""
    if isinstance(section, DatasetSection) and isinstance(task, DatasetTaskSection):
        return dict(section.arguments), task.type
    words = task.model_dump() if isinstance(task, DatasetTaskSection) else task
    given = dict(section or words.get("dataset_config") or {})
    if not given:
        raise ConfigError(key, section, "Describe the data: data_loader, tokenizer, lengths.")
    if "type" not in words:
        raise ConfigError(f"{key}_task.type", None, f"Name a dataset: {', '.join(DATASETS.names())}.")
    return given, words["type"]


def _with_phase(loader: Any, phase: str, labels: bool | None, key: str) -> Any:
    if not isinstance(loader, Mapping):
        return loader
    added: dict[str, Any] = {} if "phase" in loader else {"phase": phase}
    if labels is not None:
        needed = "train" if labels else "eval"
        if loader.get("phase", phase) != needed:
            logger.info("%s.data_loader.phase is %s here, as the metric needs it", key, needed)
        added = {"phase": needed} if "shuffle" in loader else {"phase": needed, "shuffle": False}
    return loader.changed(**added) if isinstance(loader, Spec) else {**loader, **added}


def _class_of(name: Any) -> Any:
    return DATASETS.get(name, "type") if isinstance(name, str) and name in DATASETS else None
