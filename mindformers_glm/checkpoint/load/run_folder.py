"""A run's output folder as a model: which of its folders holds the network, and where its files lie.

output/checkpoint_network/rank_R/*.ckpt     weights of the newest step
output/checkpoint_trainable/rank_R/*.ckpt   the adapter, or whatever was trained
output/checkpoint/rank_R/*.ckpt             training states
output/<run_mode>_config.yaml               the configuration as it was understood
"""

from __future__ import annotations

import re
from pathlib import Path

NETWORK, TRAINABLE, STATES = "checkpoint_network", "checkpoint_trainable", "checkpoint"
_CONFIGS = ("finetune_config.yaml", "train_config.yaml")
_RANK = re.compile(r"rank_\d+")


def network_folder(folder: Path) -> Path | None:
    """The folder of weights inside a run's output folder; None where `folder` is none."""
    for name in (NETWORK, STATES):
        if any((folder / name).glob("rank_*/*.ckpt")):
            return folder / name
    return None


def run_of(path: Path) -> Path | None:
    """The output folder of the run that a file or folder of checkpoints belongs to; None where it is no run's."""
    folder = path if path.is_dir() else path.parent
    if _RANK.fullmatch(folder.name):
        folder = folder.parent
    if folder.name in (NETWORK, TRAINABLE, STATES):
        return folder.parent
    return folder if network_folder(folder) is not None else None


def places_of(path: Path) -> list[Path]:
    """Where the files of a run's model may lie, nearest first; empty for what is no run's."""
    run, here = run_of(path), path if path.is_dir() else path.parent
    if run is None:
        return []
    network = run / NETWORK
    found = [here, *sorted(here.glob("rank_0")), here.parent, network, network / "rank_0", run]
    return [place for place in dict.fromkeys(found) if place.is_dir() and place != run.parent]


def run_config(path: Path) -> Path | None:
    """The YAML that the run at `path` wrote, the newest of those that train."""
    run = run_of(path)
    found = [] if run is None else [run / name for name in _CONFIGS if (run / name).is_file()]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)
