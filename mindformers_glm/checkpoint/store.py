"""The checkpoints of one run in `output/`: named as MindFormers names them, complete or absent, the last good one kept.

output/checkpoint/rank_R/<prefix>_rank_R-<epoch>_<step>.ckpt          weights, optimizer, counters, random state
output/checkpoint/rank_R/meta.json                                    which is the newest, and what is there
output/checkpoint_network/rank_R/<prefix>_rank_R-network.ckpt         weights of the newest
output/checkpoint_trainable/rank_R/<prefix>_rank_R-trainable_params.ckpt
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from mindformers_glm.checkpoint.atomic import sync_folder, write_text
from mindformers_glm.checkpoint.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.resume import TrainState, global_step_of, read_train_state, to_ckpt
from mindformers_glm.checkpoint.source import step_of
from mindformers_glm.errors import CheckpointError
from mindformers_glm.log import logger

_META = "meta.json"


class Saved(NamedTuple):
    """One training checkpoint of this rank on disk."""

    path: Path
    epoch: int
    step: int
    global_step: int


class CheckpointStore:
    """Saves training states of one rank and finds the newest that every rank has.

    `keep` is the number of full checkpoints kept (0 keeps all). `exchange` is needed only when ranks do not see one
    another's folders: it takes this rank's number and returns those of all ranks.
    """

    def __init__(
        self,
        root: str | Path,
        prefix: str = "CKP",
        *,
        rank: int = 0,
        rank_size: int = 1,
        keep: int = 5,
        save_network: bool = True,
        trainable: Iterable[str] | None = None,
        exchange: Callable[[int], list[int]] | None = None,
    ) -> None:
        self.root, self.prefix, self.rank, self.rank_size, self.keep = Path(root), prefix, rank, rank_size, keep
        self.save_network, self.trainable, self.exchange = save_network, list(trainable or []), exchange
        self.folder = self.root / "checkpoint" / f"rank_{rank}"
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    # saving

    def save(self, state: TrainState, *, background: bool = False) -> Path:
        """Writes the state and returns its path; with `background` after a copy in memory, while training goes on.

        Raises:
            CheckpointError: the disk is full or not writable, now or in the last background save. What was there
                before is untouched.
        """
        self.wait()
        epoch, step = state.file_epoch_step
        path = self.folder / f"{self.prefix}_rank_{self.rank}-{epoch}_{step}.ckpt"
        if not background:
            self._write(state, path)
            return path
        copy = state.snapshot()
        self._thread = threading.Thread(target=self._write_in_background, args=(copy, path), name="checkpoint")
        self._thread.start()
        return path

    def wait(self) -> None:
        """Returns when no background save is running; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # finding

    def saved(self) -> list[Saved]:
        """The sound checkpoints of this rank and prefix, oldest first. Damaged files are passed over with a warning."""
        return self._saved(self.rank)

    def newest(self) -> Saved | None:
        """The newest checkpoint that all ranks have completely; None when there is none."""
        steps = {saved.global_step: saved for saved in self.saved()}
        if self.exchange is not None:
            return steps.get(self._agree(sorted(steps)))
        for rank in range(self.rank_size):
            if rank != self.rank:
                there = {saved.global_step for saved in self._saved(rank)}
                steps = {step: saved for step, saved in steps.items() if step in there}
        return steps[max(steps)] if steps else None

    def load(self, which: bool | str | Path = True, *, steps_per_epoch: int = 0) -> TrainState:
        """The state to resume from: True for the newest complete one, or a file, or a name in this rank's folder.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        if which is True:
            newest = self.newest()
            if newest is None:
                raise CheckpointError(
                    str(self.folder), "no complete checkpoint to resume from", "Start without resume_training."
                )
            path = newest.path
        else:
            path = Path(which) if Path(which).is_file() else self.folder / self._of_this_rank(str(which))
        if not path.is_file():
            raise CheckpointError(str(path), "there is no such checkpoint", "Give a file name from this folder.")
        return read_train_state(path, steps_per_epoch=steps_per_epoch)

    # inside

    def _write_in_background(self, state: TrainState, path: Path) -> None:
        try:
            self._write(state, path)
        except BaseException as error:  # noqa: BLE001 - handed to the training thread, which raises it
            self._failure = error

    def _write(self, state: TrainState, path: Path) -> None:
        arrays, texts = to_ckpt(state)
        try:
            save_ckpt(path, arrays, texts)
            self._write_meta()
            if self.save_network:
                save_ckpt(self._beside("checkpoint_network", "network"), state.weights)
            if self.trainable:
                chosen = {name: state.weights[name] for name in self.trainable}
                save_ckpt(self._beside("checkpoint_trainable", "trainable_params"), chosen)
        except OSError as error:
            raise CheckpointError(
                str(path),
                f"could not be saved ({os.strerror(error.errno) if error.errno else error})",
                "Free disk space or repair the folder; earlier checkpoints are intact.",
            ) from error
        self._drop_old(path)

    def _beside(self, folder: str, kind: str) -> Path:
        return self.root / folder / f"rank_{self.rank}" / f"{self.prefix}_rank_{self.rank}-{kind}.ckpt"

    def _write_meta(self) -> None:
        saved = self.saved()
        rows = [{"file": s.path.name, "epoch": s.epoch, "step": s.step, "global_step": s.global_step} for s in saved]
        meta = {
            "last_epoch": saved[-1].epoch,
            "last_step": saved[-1].step,
            "last_ckpt_file": saved[-1].path.name,
            "global_step": saved[-1].global_step,
            "rank_size": self.rank_size,
            "checkpoints": rows,
        }
        write_text(self.folder / _META, json.dumps(meta, indent=1))

    def _drop_old(self, written: Path) -> None:
        """Deletes what exceeds `keep`, but never the newest step that every rank has, nor the one just written."""
        if self.keep < 1:
            return
        saved = self.saved()
        shared = self.newest() if self.exchange is None else None
        spared = {written, *(s.path for s in saved[-self.keep :]), *([shared.path] if shared else [])}
        for old in saved:
            if old.path not in spared:
                old.path.unlink(missing_ok=True)
        sync_folder(self.folder)

    def _saved(self, rank: int) -> list[Saved]:
        folder = self.root / "checkpoint" / f"rank_{rank}"
        pattern = re.compile(re.escape(f"{self.prefix}_rank_{rank}") + r"-\d+_\d+\.ckpt")
        found = []
        for path in folder.glob("*.ckpt") if folder.is_dir() else ():
            if not pattern.fullmatch(path.name):
                continue
            try:
                found.append(Saved(path, *step_of(path), global_step_of(path)))
            except (CheckpointError, FileNotFoundError) as error:
                logger.warning("passed over: %s", error)
        return sorted(found, key=lambda saved: (saved.global_step, saved.epoch, saved.step))

    def _agree(self, steps: list[int]) -> int:
        """The largest step that all ranks have, or -1, found with a few exchanges of one number."""
        bound = max(steps, default=-1)
        while True:
            offer = max((step for step in steps if step <= bound), default=-1)
            offers = self.exchange(offer)
            if min(offers) == max(offers):
                return offer
            bound = min(offers)

    def _of_this_rank(self, name: str) -> str:
        name = re.sub(r"_rank_\d+-", f"_rank_{self.rank}-", name)
        return name if name.endswith(".ckpt") else name + ".ckpt"
