"""What calibration has done so far, on disk: the tensors of each layer, and the hidden states after the last of them.

`<output>.work` holds a file for each layer and one of states; it goes on from there after a kill, when the same is
asked for, and is removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import DTYPES, bits_of, name_of, typed
from mindformers_glm.checkpoint.formats.folder import disk_fault
from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors, write_safetensors
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import atomic_write, read_json, remove_abandoned, write_text

_ASKED = "asked.json"


class Work:
    """The folder beside an output. `asked` is everything that changes what is computed."""

    def __init__(self, output: str | Path, asked: Mapping[str, Any]) -> None:
        """Takes up what is there where it is of the same work, and otherwise begins anew.

        Raises:
            CheckpointError: the folder is there and is not ours.
        """
        path = Path(output)
        self.folder = path.with_name(path.name + ".work")
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
        told = self.folder / _ASKED
        if self.folder.exists() and any(self.folder.iterdir()):
            if not told.is_file():
                fault = "it is not a folder of an interrupted calibration"
                raise CheckpointError(str(self.folder), fault, "Move it away, or choose another output.")
            if read_json(told) != {"digest": digest}:
                self.remove()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.folder)
            write_text(told, json.dumps({"digest": digest}))
        except OSError as error:
            raise disk_fault(self.folder, error) from error
        self.done = 0
        while self._layer(self.done).is_file() and self._states(self.done).is_file():
            self.done += 1
        states = [int(file.stem.partition("-")[2]) for file in self.folder.glob("states-*.npy")]
        last = max((index for index in states if self._layer(index).is_file()), default=-1)
        self.done = last + 1 if all(self._layer(index).is_file() for index in range(last + 1)) else 0

    def states(self, lengths: Sequence[int]) -> list[np.ndarray] | None:
        """The hidden states after the layers that are done; None where none is."""
        if not self.done:
            return None
        joined = np.load(self._states(self.done - 1), allow_pickle=False)
        return np.split(joined, np.cumsum(lengths)[:-1])

    def write(self, index: int, tensors: Mapping[str, np.ndarray], states: Sequence[np.ndarray] | None) -> None:
        """Keeps the tensors of a layer, and the hidden states after it; of the last layer there are none.

        Raises:
            CheckpointError: the disk is full.
        """
        try:
            rows = [(name, name_of(array), bits_of(array)) for name, array in tensors.items()]
            with atomic_write(self._layer(index)) as file:
                write_safetensors(file, rows)
            with atomic_write(self._states(index)) as file:
                np.save(file, np.concatenate(states) if states else np.zeros((0, 1), np.float32))
        except OSError as error:
            raise disk_fault(self.folder, error) from error
        if index:
            self._states(index - 1).unlink(missing_ok=True)
        self.done = index + 1

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors of all layers, mapped from the files."""
        found = {}
        for index in range(self.done):
            path = self._layer(index)
            for name, entry in open_safetensors(path).entries.items():
                span = entry.spans[0] if entry.spans else None
                dtype = DTYPES[entry.dtype].storage
                if span is None or not span.size:
                    found[name] = typed(np.zeros(entry.shape, dtype), entry.dtype)
                else:
                    found[name] = typed(np.memmap(path, dtype, "r", span.offset, entry.shape), entry.dtype)
        return found

    def remove(self) -> None:
        """Removes the folder, what marks it as ours last."""
        for file in [*self.folder.glob("layer-*.safetensors"), *self.folder.glob("states-*.npy")]:
            file.unlink(missing_ok=True)
        (self.folder / _ASKED).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)

    def _layer(self, index: int) -> Path:
        return self.folder / f"layer-{index:04d}.safetensors"

    def _states(self, index: int) -> Path:
        return self.folder / f"states-{index}.npy"
