"""Checkpoints divided among ranks: `rank_R` folders read as whole tensors, whole tensors written in any division."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import typed
from mindformers_glm.checkpoint.formats.folder import disk_fault
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.checkpoint.load.folders import step_of
from mindformers_glm.checkpoint.load.names import Kind, meaning
from mindformers_glm.checkpoint.load.source import open_file
from mindformers_glm.checkpoint.store.saved import check_networks
from mindformers_glm.checkpoint.store.strategy import MOST_RANKS, WHOLE, Slicing, Strategy, Window
from mindformers_glm.errors import CheckpointError, listed, shorten
from mindformers_glm.files import leaving_nothing, plain_name

_RANK = re.compile(r"rank_(\d+)")


def rank_files(folder: str | Path, ranks: int, *, step: tuple[int, int] | None = None) -> list[Path]:
    """The checkpoint of each of `ranks` ranks in `folder/rank_R/`: of `step`, or the newest that all of them have.

    Steps are compared as numbers (MindSpore takes the last name of the alphabet, where -1_500 follows -1_1000).

    Raises:
        CheckpointError: a rank's folder or file is missing, or several files do not tell their steps.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(str(folder), "there is no such folder", "Name the folder that holds rank_0, rank_1, ...")
    if ranks == 1 and not (folder / "rank_0").is_dir() and any(folder.glob("*.ckpt")):
        return [_only_or_newest(folder, sorted(folder.glob("*.ckpt")))]
    found = sorted(path.name for path in folder.iterdir() if _RANK.fullmatch(path.name))
    if ranks > 2 * len(found) + 64:  # too many to be listed
        fault = f"{ranks:,} ranks in the strategy, {len(found)} folders of ranks ({listed(found, 3) or 'none'})"
        raise CheckpointError(str(folder), fault, "Give the strategy of the run that wrote these files.")
    there = [sorted((folder / f"rank_{rank}").glob("*.ckpt")) for rank in range(ranks)]
    missing = [f"rank_{rank}" for rank, files in enumerate(there) if not files]
    if missing:
        fault = f"no checkpoint in {listed(missing)} (the folder has {listed(found) or 'no rank folders'})"
        fix = f"The strategy divides the weights among {ranks} ranks: bring the folders of all of them together."
        raise CheckpointError(str(folder), fault, fix)
    steps = [_by_step(files) for files in there]
    shared = set.intersection(*(set(one) for one in steps))
    if step is not None and step not in shared:
        without = [f"rank_{rank}" for rank, one in enumerate(steps) if step not in one]
        fault = f"no checkpoint of step {step[0]}_{step[1]} in {listed(without)}"
        raise CheckpointError(str(folder), fault, "Name a step that all ranks have.")
    if shared:
        return [one[step or max(shared)] for one in steps]
    if any(len(one) > 1 for one in there):
        fix = "Keep one step in every rank's folder, or copy the missing rank's file."
        raise CheckpointError(str(folder), "no step that all ranks have", fix)
    check_networks(one[0] for one in there)
    return [one[0] for one in there]


def _by_step(files: Iterable[Path]) -> dict[tuple[int, int], Path]:
    return {step: file for file in files if (step := step_of(file))}


def _only_or_newest(folder: Path, files: list[Path]) -> Path:
    steps = _by_step(files)
    if len(files) > 1 and len(steps) < len(files):
        raise CheckpointError(str(folder), f"{len(files)} checkpoints", "Keep the one to read.")
    return steps[max(steps)] if steps else files[0]


class RankFiles(Mapping):
    """The whole tensors of a divided checkpoint under the names of its files, put together when read."""

    def __init__(self, folder: str | Path, strategy: Strategy | None, *, step: tuple[int, int] | None = None) -> None:
        self.place, self.strategy = str(folder), strategy
        ranks = strategy.ranks if strategy else 1
        self.files: list[TensorFile] = [open_file(path) for path in rank_files(folder, ranks, step=step)]
        self._owners: dict[str, list[int]] = {}
        for rank, file in enumerate(self.files):
            for name in file.entries:
                self._owners.setdefault(name, []).append(rank)
        self.metadata = self.files[0].metadata

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def dtype(self, name: str) -> str:
        """Type in the files."""
        return self.files[self._owners[name][0]].entries[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        rank = self._owners[name][0]
        return self._slicing(name, rank).whole_shape(self.files[rank].entries[name].shape)

    def read(self, name: str, window: Window | None = None) -> np.ndarray:
        """The whole tensor, or the part of it in `window`, read from the ranks that hold it.

        Raises:
            CheckpointError: a piece is missing or has another shape than the strategy says.
        """
        shape = self.shape(name)
        window = window if window is not None else tuple(slice(0, size) for size in shape)
        out, filled, done = None, 0, set()
        stored = sum(math.prod(self.files[rank].entries[name].shape) for rank in self._owners[name])
        if math.prod(shape) > stored:
            fault = (
                f"pieces of {name} are missing: {stored:,} numbers in all ranks, {math.prod(shape):,} by the strategy"
            )
            raise CheckpointError(self.place, fault, "Bring the folders of all ranks together, with their strategy.")
        for rank in self._owners[name]:
            file, own = self.files[rank], self._slicing(name, rank).window(name, shape, rank % self._devices)
            if str(own) in done:  # another rank holds the same piece
                continue
            done.add(str(own))
            if file.entries[name].shape != tuple(part.stop - part.start for part in own):
                fault = f"{name} is {file.entries[name].shape}, the strategy says otherwise"
                raise CheckpointError(str(file.path), fault, "Give the strategy of the run that wrote these files.")
            if file.entries[name].dtype != self.dtype(name):
                fault = f"{name} is {file.entries[name].dtype} here and {self.dtype(name)} on another rank"
                raise CheckpointError(str(file.path), fault, "Bring the folders of one step together.")
            shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(own, window, strict=True)]
            if all(part.start < part.stop for part in shared):
                piece = file.read_bits(name)
                if out is None:
                    out = np.empty([part.stop - part.start for part in window], piece.dtype)
                target = _relative(shared, window)
                out[target] = piece[_relative(shared, own)]
                filled += out[target].size
        if out is None or filled != out.size:
            raise CheckpointError(
                self.place, f"pieces of {name} are missing", "Bring the folders of all ranks together."
            )
        return typed(out, self.dtype(name))

    @property
    def _devices(self) -> int:
        return self.strategy.devices if self.strategy else 1

    def _slicing(self, name: str, rank: int) -> Slicing:
        return self.strategy.slicing(name, rank) if self.strategy else WHOLE


class RankPart(Mapping):
    """What one rank of another division holds of a checkpoint: read as it is written."""

    def __init__(self, source: RankFiles, strategy: Strategy | None, rank: int, *, weights_only: bool = False) -> None:
        self._source, self._strategy, self._rank = source, strategy, rank
        self._names = [
            name
            for name in source
            if (strategy is None or strategy.holds(name, rank)) and not (weights_only and is_state(name))
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> np.ndarray:
        if self._strategy is None:
            return self._source.read(name)
        slicing = self._strategy.slicing(name, self._rank)
        window = slicing.window(name, self._source.shape(name), self._rank % self._strategy.devices)
        return self._source.read(name, window)


def is_state(name: str) -> bool:
    """True for optimizer states and counters, which a network does not hold."""
    return meaning(name).kind is Kind.STATE


def transform(
    source: RankFiles,
    strategy: Strategy | None,
    folder: str | Path,
    *,
    prefix: str = "checkpoint_",
    weights_only: bool = False,
) -> list[Path]:
    """Writes a checkpoint in the division of `strategy` (None: whole) as `folder/rank_R/<prefix>R.ckpt`.

    Each file appears whole or not at all, and nothing else in the folder is touched.

    Raises:
        CheckpointError: pieces are missing, the two strategies do not fit the checkpoint, or the disk refuses. What
            this call had written is removed again.
    """
    if not plain_name(f"{prefix}0.ckpt"):
        raise CheckpointError("--prefix", f"{shorten(prefix)} is no beginning of a file's name", "Leave out folders.")
    ranks = strategy.ranks if strategy else 1
    if strategy and ranks > MOST_RANKS:
        raise CheckpointError(strategy.place, f"{ranks:,} ranks", f"At most {MOST_RANKS:,} are written.")
    written: list[Path] = []
    try:
        with leaving_nothing(folder):
            for rank in range(ranks):
                written.append(Path(folder) / f"rank_{rank}" / f"{prefix}{rank}.ckpt")
                written[-1].parent.mkdir(parents=True, exist_ok=True)
                texts = {} if weights_only else source.metadata
                save_ckpt(written[-1], RankPart(source, strategy, rank, weights_only=weights_only), texts)
    except OSError as error:
        raise disk_fault(written[-1] if written else Path(folder), error) from error
    return written


def _relative(shared: list[slice], window: Window) -> tuple[slice, ...]:
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(shared, window, strict=True))
