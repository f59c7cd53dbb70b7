"""Whole tensors of a checkpoint, also of one that a run divided among its ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mindformers_glm.checkpoint.load.model_files import model_files
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.checkpoint.store.reshard import RankFiles, RankPart
from mindformers_glm.checkpoint.store.strategy import read_strategy
from mindformers_glm.errors import CheckpointError, ConfigError


def whole_weights(folder: str | Path, strategy: str | Path | None = None) -> Mapping[str, np.ndarray] | None:
    """The weights of a folder that a strategy divides, joined as they are read; None where nothing divides it.

    Raises:
        ConfigError, CheckpointError: as `divided_weights`; or rows in an order that only a whole file can tell.
    """
    divided = divided_weights(folder, strategy)
    if divided is None:
        return None
    _check_row_order(Path(folder))
    return RankPart(divided, None, 0, weights_only=True)


class SourceArrays(Mapping):
    """A WeightSource as a mapping of name to array, read on request."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names)

    def __len__(self) -> int:
        return len(self._source.names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._source.read(name)


def divided_weights(folder: str | Path, strategy: str | Path | None) -> RankFiles | None:
    """The whole tensors of a `load_checkpoint` folder that a strategy divides; None when there is no strategy.

    Without `src_strategy_path_or_dir` the folder `strategy` beside it, where runs write theirs, is taken.

    Raises:
        ConfigError: a strategy was given and the checkpoint is no folder.
        CheckpointError: files are missing or do not fit the strategy.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if strategy:
            fix = "A strategy divides a folder of rank_0, rank_1, ...: name that folder."
            raise ConfigError("load_checkpoint", str(folder), fix)
        return None
    if not list(folder.glob("rank_*/*.ckpt")):
        return None
    beside = folder.parent / "strategy"
    place = strategy or (beside if beside.is_dir() and any(beside.iterdir()) else None)
    return RankFiles(folder, read_strategy(place)) if place else None


def _check_row_order(folder: Path) -> None:
    if model_files(folder).storage.use_rearrange_rope:
        fault = "its YAML says use_rearrange_rope, and its weights are divided among ranks"
        fix = "Merge them with tools/transform_ckpt.py, then convert them with tools/convert_weight.py."
        raise CheckpointError(str(folder), fault, fix)
