"""The checkpoints of one run in `output/`: named as MindFormers names them, complete or absent, the last good one kept.

output/checkpoint/rank_R/<prefix>_rank_R-<epoch>_<step>.ckpt          weights, optimizer, counters, random state
output/checkpoint/rank_R/meta.json                                    which is the newest, and what is there
output/checkpoint_network/rank_R/<prefix>_rank_R-network.ckpt         weights of the newest
output/checkpoint_trainable/rank_R/<prefix>_rank_R-trainable_params.ckpt
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.formats.folder import disk_fault
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.store import saved
from mindformers_glm.checkpoint.store.resume import TrainState, read_train_state, to_ckpt
from mindformers_glm.checkpoint.store.saved import META, Saved
from mindformers_glm.files import claim, release, sync_folder, write_text
from mindformers_glm.log import logger


class CheckpointStore:
    """Saves training states of one rank and finds the newest that every rank has.

    `keep` is the number of full checkpoints kept (0 keeps all). A prefix that another run uses or has used becomes
    `<prefix>_1`, `_2`, ... With `resume` the run that wrote last goes on under its own name; given as the file that
    was resumed from, that file's run, unless it has newer files, which a new name keeps apart. `exchange` is needed
    only when ranks do not see one another's folders: it takes this rank's number and returns those of all ranks.
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
        resume: bool | str | Path = False,
        exchange: Callable[[int], list[int]] | None = None,
    ) -> None:
        self.root, self.rank, self.rank_size, self.keep = Path(root), rank, rank_size, keep
        self.save_network, self.trainable, self.exchange = save_network, list(trainable or []), exchange
        self.folder = self.root / "checkpoint" / f"rank_{rank}"
        self.resumed: Saved | None = None
        self._claim: int | None = None
        try:
            self.prefix = self._choose_prefix(prefix, resume)
        except OSError as error:
            raise disk_fault(self.folder, error) from error
        self.best: dict[str, Any] | None = (
            None  # the checkpoint that `keep` never deletes: prefix, file, and its figure
        )
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

    def renew_network(self, state: TrainState) -> bool:
        """Writes checkpoint_network and checkpoint_trainable where they are not of the checkpoint resumed from.

        A run that dies between its files leaves weights of an earlier step there. `state` is the resumed one, before
        its first step. True when something was written.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        if self.resumed is None or not (self.save_network or self.trainable):
            return False
        file = self.resumed.path.name
        wanted = [self._network_path] * self.save_network + [self._trainable_path] * bool(self.trainable)
        noted = saved.networks(self.folder).get(self.prefix)
        if noted == {"file": file, "division": state.data.get("division")} and all(p.is_file() for p in wanted):
            return False
        try:
            self.write_beside(state, file)
        except OSError as error:
            raise disk_fault(self.folder, error) from error
        logger.info("Wrote %s again: they were not of %s.", " and ".join(map(str, wanted)), file)
        return True

    def best_path(self) -> Path:
        """The file of the best checkpoint on this rank, or on rank 0 where other ranks wrote it."""
        best = self.best or {}
        epoch, step = best["file"]
        there = [
            self.root / "checkpoint" / f"rank_{rank}" / f"{best['prefix']}_rank_{rank}-{epoch}_{step}.ckpt"
            for rank in (self.rank, 0)
        ]
        return next((path for path in there if path.is_file()), there[0])

    def write_network(self, state: TrainState, file: str) -> None:
        """Writes checkpoint_network and checkpoint_trainable as the weights of the checkpoint `file`.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        try:
            self.write_beside(state, file)
        except OSError as error:
            raise disk_fault(self.folder, error) from error

    def wait(self) -> None:
        """Returns when no background save is running; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def model_folders(self) -> list[Path]:
        """The folders of weights that are written beside the checkpoints."""
        places = [self._network_path] * self.save_network + [self._trainable_path] * bool(self.trainable)
        return [place.parent for place in places]

    def close(self) -> None:
        """Waits for a background save and gives the prefix free."""
        try:
            self.wait()
        finally:
            release(self._claim, self._lock_path(self.prefix))
            self._claim = None

    # finding

    def saved(self) -> list[Saved]:
        """The sound checkpoints of this rank and prefix, oldest first. Damaged files are skipped with a warning."""
        return saved.of_rank(self.root / "checkpoint", self.prefix, self.rank)

    def newest(self) -> Saved | None:
        """The newest checkpoint that all ranks have completely; None when there is none."""
        if self.exchange is None:
            return saved.newest_of_all(self.root / "checkpoint", self.prefix, self.rank, self.rank_size)
        return saved.agree(self.saved(), self.exchange)

    def load(self, which: bool | str | Path = True, *, steps_per_epoch: int = 0) -> TrainState:
        """The state to resume from: True for the newest complete one, or a file, or a name in this rank's folder.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        newest = self.newest() if which is True else None
        if newest is not None:
            return read_train_state(newest.path, steps_per_epoch=steps_per_epoch)
        path = saved.resume_file(self.root, which=which, rank=self.rank, rank_size=self.rank_size)
        return read_train_state(path, steps_per_epoch=steps_per_epoch)

    # inside

    def _choose_prefix(self, prefix: str, resume: bool | str | Path) -> str:
        """The name to save under, claimed for this process; the same on all ranks."""
        folder = self.root / "checkpoint"
        last = saved.run_to_continue(folder, prefix, resume, self.rank, self.rank_size)
        taken = [saved.number_of(name, prefix) for name in saved.prefixes(folder, prefix)]
        free = 1 + max((number for number in taken if number is not None), default=-1)
        number = free if last is None else saved.number_of(last, prefix) or 0
        exchange = self.exchange or (lambda value: [value])
        while True:
            number = max(exchange(number))
            name = f"{prefix}_{number}" if number else prefix
            self._claim = claim(self._lock_path(name))
            if min(exchange(int(self._claim is not None))):
                if name == last:
                    self.resumed = saved.newest_of_all(folder, name, self.rank, self.rank_size)
                return name
            release(self._claim, self._lock_path(name))
            number = max(free, number + 1)

    def _lock_path(self, prefix: str) -> Path:
        return self.folder / f".{prefix}_rank_{self.rank}.lock"

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
            self.write_beside(state, path.name)
            self._drop_old(path)
        except OSError as error:
            raise disk_fault(path, error) from error

    def write_beside(self, state: TrainState, file: str) -> None:
        """The weights of the checkpoint `file`, and then a note that they are its weights."""
        if self.save_network:
            save_ckpt(self._network_path, state.weights)
        if self.trainable:
            save_ckpt(self._trainable_path, {name: state.weights[name] for name in self.trainable})
        self._write_meta({"file": file, "division": state.data.get("division")})

    @property
    def _network_path(self) -> Path:
        return self._beside("checkpoint_network", "network")

    @property
    def _trainable_path(self) -> Path:
        return self._beside("checkpoint_trainable", "trainable_params")

    def _beside(self, folder: str, kind: str) -> Path:
        return self.root / folder / f"rank_{self.rank}" / f"{self.prefix}_rank_{self.rank}-{kind}.ckpt"

    def _write_meta(self, network: dict[str, Any] | None = None) -> None:
        """What is there; `network` tells the checkpoint whose weights now lie in the neighbouring folders."""
        there, networks = self.saved(), saved.networks(self.folder)
        if network is not None:
            networks[self.prefix] = network
        last = there[-1]
        rows = [{"file": s.path.name, "epoch": s.epoch, "step": s.step, "global_step": s.global_step} for s in there]
        meta = {
            "last_epoch": last.epoch,
            "last_step": last.step,
            "last_ckpt_file": last.path.name,
            "global_step": last.global_step,
            "rank_size": self.rank_size,
            "checkpoints": rows,
            "networks": networks,
        }
        if self.best is not None:
            meta["best"] = {**self.best, "file": self.best_path().name}
        write_text(self.folder / META, json.dumps(meta, indent=1))

    def _drop_old(self, written: Path) -> None:
        """Deletes what exceeds `keep`, but never the newest step that every rank has, nor the one just written."""
        if self.keep < 1:
            return
        there = self.saved()
        shared = saved.newest_of_all(self.root / "checkpoint", self.prefix, self.rank, self.rank_size)
        spared = {written, *(one.path for one in there[-self.keep :]), *([shared.path] if shared else [])}
        if self.best is not None:
            spared.add(self.best_path())
        for old in there:
            if old.path not in spared:
                old.path.unlink(missing_ok=True)
        sync_folder(self.folder)
