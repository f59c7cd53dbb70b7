"""Which training checkpoints are on disk, which of them are sound, and which one all ranks share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.checkpoint.load.folders import step_of
from mindformers_glm.checkpoint.store.resume import global_step_of
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import read_json
from mindformers_glm.log import logger

META = "meta.json"
_NAME = re.compile(r"(?P<prefix>.+)_rank_(?P<rank>\d+)-(?P<epoch>\d+)_(?P<step>\d+)\.ckpt")
_NETWORK = re.compile(r"(?P<prefix>.+)_rank_\d+-network\.ckpt")


class Saved(NamedTuple):
    """One training checkpoint of a rank on disk."""

    path: Path
    epoch: int
    step: int
    global_step: int

    @property
    def moment(self) -> tuple[int, int, int]:
        """What orders checkpoints and is equal on all ranks; skipped steps leave global_step as it was."""
        return self.global_step, self.epoch, self.step


def of_rank(folder: Path, prefix: str, rank: int) -> list[Saved]:
    """The sound checkpoints of a rank and prefix below `folder`, oldest first; damaged ones cost a warning."""
    found = []
    for path in _files(folder, rank):
        if _prefix(path) != prefix:
            continue
        try:
            epoch, step = step_of(path) or (0, 0)
            found.append(Saved(path, epoch, step, global_step_of(path)))
        except (CheckpointError, FileNotFoundError) as error:
            logger.warning("skipped: %s", error)
    return sorted(found, key=lambda one: one.moment)


def newest_of_all(folder: Path, prefix: str, rank: int, rank_size: int) -> Saved | None:
    """The rank's own file of the newest step that every rank has completely; None when there is none."""
    mine = {one.moment: one for one in of_rank(folder, prefix, rank)}
    for other in range(rank_size):
        if other != rank:
            there = {one.moment for one in of_rank(folder, prefix, other)}
            mine = {moment: one for moment, one in mine.items() if moment in there}
    return mine[max(mine)] if mine else None


def agree(there: list[Saved], exchange: Callable[[int], list[int]]) -> Saved | None:
    """The newest of `there` that all ranks have, found by exchanging numbers; every rank must call it."""
    mine = {one.moment: one for one in there}
    none = (-1, -1, -1)
    bound = max(mine, default=none)
    while True:
        offer = max((moment for moment in mine if moment <= bound), default=none)
        offers = list(zip(*(exchange(number) for number in offer), strict=True))
        if min(offers) == max(offers):
            return mine.get(offer)
        bound = min(offers)


def networks(folder: Path) -> dict[str, dict]:
    """Of a rank's folder: run -> the checkpoint whose weights lie in checkpoint_network, and the job's division."""
    told = _meta(folder).get("networks")
    return {name: one for name, one in told.items() if isinstance(one, dict)} if isinstance(told, dict) else {}


def check_networks(files: Iterable[Path]) -> None:
    """Makes sure that the ranks' files of one checkpoint_network are of one step, as far as their runs noted it.

    Raises:
        CheckpointError: the job was stopped when some ranks had written theirs and others not.
    """
    noted = {}
    for path in files:
        name, place = _NETWORK.fullmatch(path.name), path.parent.parent
        if name and place.name == "checkpoint_network":
            found = networks(place.parent / "checkpoint" / path.parent.name).get(name["prefix"], {}).get("file")
            step = step_of(Path(found)) if isinstance(found, str) else None
            if step is not None:
                noted[path] = step
    if len(set(noted.values())) > 1:
        path, other = min(noted, key=noted.__getitem__), max(noted, key=noted.__getitem__)
        fault = f"it is of step {noted[path][1]} of epoch {noted[path][0]}, that of {other.parent.name} of step "
        fault += f"{noted[other][1]} of epoch {noted[other][0]}: the job was stopped between them"
        fix = "Resume the job, which writes them again, or read its folder `checkpoint`."
        raise CheckpointError(str(path), fault, fix)


def prefixes(folder: Path, prefix: str) -> set[str]:
    """The prefix and its numbered successors that some rank has files of."""
    names = {_prefix(path) for path in _files(folder)}
    return {name for name in names if number_of(name, prefix) is not None}


def number_of(name: str, prefix: str) -> int | None:
    """0 for the prefix itself, n for `<prefix>_n`, None for others."""
    if name == prefix:
        return 0
    rest = name.removeprefix(prefix + "_")
    return int(rest) if rest != name and rest.isdigit() else None


def last_prefix(folder: Path, prefix: str, rank: int, rank_size: int) -> str | None:
    """The run that wrote last, by meta.json or by time, among those with a step that all ranks have."""
    complete = {}
    for name in prefixes(folder, prefix):
        newest = newest_of_all(folder, name, rank, rank_size)
        if newest is not None:
            complete[name] = newest.path.stat().st_mtime
    told = _NAME.fullmatch(str(_meta(folder / f"rank_{rank}").get("last_ckpt_file")))
    if told and told["prefix"] in complete:
        return told["prefix"]
    return max(complete, key=complete.__getitem__) if complete else None


def run_to_continue(folder: Path, prefix: str, resume: bool | str | Path, rank: int, rank_size: int) -> str | None:
    """The run's name under which a resumed run goes on saving; None when it needs a new one."""
    if isinstance(resume, bool):
        return last_prefix(folder, prefix, rank, rank_size) if resume else None
    path, name = Path(resume), _NAME.fullmatch(Path(resume).name)
    if name is None or number_of(name["prefix"], prefix) is None or path.parent.parent.resolve() != folder.resolve():
        return None
    newest = newest_of_all(folder, name["prefix"], rank, rank_size)
    same = newest is not None and (newest.epoch, newest.step) == (int(name["epoch"]), int(name["step"]))
    return name["prefix"] if same else None


def resume_file(place: str | Path, *, which: bool | str | Path = True, rank: int = 0, rank_size: int = 1) -> Path:
    """The checkpoint of this rank to go on from.

    `place` is a file, a rank's folder, a folder of rank_R folders (`output/checkpoint`), or a run's output folder.
    `which`: True for the newest step that all ranks have, or a file's name, of any rank (`<prefix>_rank_0-1_8.ckpt`).

    Raises:
        CheckpointError: there is no such checkpoint, or none that all ranks have.
    """
    place = Path(place)
    if isinstance(which, (str, Path)) and str(which).lower() != "true":
        return _named(place, str(which), rank)
    if place.is_file():
        return place
    folder = _ranks_folder(place)
    names = {_prefix(path) for path in _files(folder, rank)}
    newest = [newest_of_all(folder, name, rank, rank_size) for name in names]
    candidates = [one for one in newest if one is not None]
    if not candidates:
        raise CheckpointError(
            str(folder / f"rank_{rank}"),
            "no checkpoint that all ranks have completely",
            "Start without resume_training, or name a checkpoint.",
        )
    told = str(_meta(folder / f"rank_{rank}").get("last_ckpt_file"))
    run = _NAME.fullmatch(told)
    same = [one for one in candidates if run and _prefix(one.path) == run["prefix"]]
    return max(same or candidates, key=lambda one: one.path.stat().st_mtime).path


def _named(place: Path, which: str, rank: int) -> Path:
    if Path(which).is_file():
        return Path(which)
    name = re.sub(r"_rank_\d+-", f"_rank_{rank}-", Path(which).name)
    name = name if name.endswith(".ckpt") else name + ".ckpt"
    if "_rank_" not in name:
        name = re.sub(r"-(\d+_\d+\.ckpt)$", rf"_rank_{rank}-\1", name)
    path = _ranks_folder(place) / f"rank_{rank}" / name
    if not path.is_file():
        raise CheckpointError(
            str(path), "there is no such checkpoint", "Name a file of this folder in resume_training."
        )
    return path


def _ranks_folder(place: Path) -> Path:
    """The folder above rank_R, from any of the paths that users name."""
    if place.is_file() or re.fullmatch(r"rank_\d+", place.name):
        return place.parent.parent if place.is_file() else place.parent
    return place / "checkpoint" if (place / "checkpoint").is_dir() else place


def _files(folder: Path, rank: int | None = None) -> list[Path]:
    """Training checkpoints by their names, of one rank or of all."""
    pattern = "rank_*" if rank is None else f"rank_{rank}"
    found = []
    for path in sorted(folder.glob(f"{pattern}/*.ckpt")):
        name = _NAME.fullmatch(path.name)
        if name and path.parent.name == f"rank_{name['rank']}":
            found.append(path)
    return found


def _prefix(path: Path) -> str:
    """The prefix in the name of a training checkpoint; empty in another name."""
    found = _NAME.fullmatch(path.name)
    return found["prefix"] if found else ""


def _meta(folder: Path) -> dict:
    try:
        value = read_json(folder / META)
    except CheckpointError:
        return {}
    return value if isinstance(value, dict) else {}
