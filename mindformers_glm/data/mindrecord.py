"""MindDataset: rows of .mindrecord files, token ids made by the preprocessing tools of MindFormers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindformers_glm.data.batch import Example
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import logger

_SUFFIX = ".mindrecord"


class MindDataset:
    """Rows with `input_ids` and `labels` of one .mindrecord file, of a list, or of all below a folder.

    Labels are taken as written (shifted, -100 ignored). Without a column `labels`, a row of T + 1 ids becomes T ids
    and the ids that follow them; padding (0) is not learned.
    """

    encoded = True
    shard = None
    version = 2

    def __init__(
        self,
        dataset_dir: str | None = None,
        dataset_files: str | list[str] | None = None,
        phase: str = "train",
        shuffle: bool | None = None,
        columns_list: list[str] | None = None,
        num_samples: int | None = None,
        pad_token_id: int = 0,
    ) -> None:
        self.phase, self.shuffle = phase, phase == "train" if shuffle is None else shuffle
        self.pad = pad_token_id
        files = _files(dataset_dir, dataset_files)
        self.path: Path = files[0] if len(files) == 1 else files[0].parent
        self.rows = self._read(files, columns_list)[:num_samples]
        logger.info("Loading %d data success: %s", len(self.rows), self.path)

    def _read(self, files: list[Path], columns: list[str] | None) -> list[Example]:
        import mindspore.dataset as ms_dataset  # noqa: PLC0415 - only this format needs it

        try:
            source = ms_dataset.MindDataset([str(file) for file in files], shuffle=False, num_parallel_workers=1)
            records = list(source.create_dict_iterator(num_epochs=1, output_numpy=True))
        except (RuntimeError, ValueError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            fix = "Give the .mindrecord file with its .db beside it, both as they were written"
            raise DataError(str(files[0]), f"this MindRecord file cannot be read ({first})", fix) from error
        names = columns or ["input_ids", "labels"]
        if not records or names[0] not in records[0]:
            found = ", ".join(sorted(records[0])) if records else "no rows"
            raise DataError(str(files[0]), f"no column {names[0]!r}, found {found}", "Set columns_list")
        return [self._example(record, names) for record in records]

    def _example(self, record: dict[str, np.ndarray], names: list[str]) -> Example:
        ids = record[names[0]].astype(np.int32).ravel()
        if len(names) > 1 and names[1] in record:
            labels = record[names[1]].astype(np.int32).ravel()
        else:
            ids, labels = ids[:-1], np.where(ids[1:] == self.pad, IGNORED, ids[1:])
        used = int(np.flatnonzero(ids != self.pad)[-1]) + 1 if (ids != self.pad).any() else 0
        return Example(ids.tolist(), labels.tolist(), used)


def _files(folder: str | None, names: str | list[str] | None) -> list[Path]:
    if not folder and not names:
        raise ConfigError("data_loader.dataset_dir", folder, "Name a .mindrecord file or a folder of them.")
    given = [folder] if folder else [names] if isinstance(names, str) else list(names or [])
    files: list[Path] = []
    for name in given:
        path = user_path(name)
        if path.is_dir():
            files += sorted(path.rglob(f"*{_SUFFIX}"))
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(str(path), "there is no such file or folder", "Give its path: --train_dataset_dir PATH")
    if not files:
        raise DataError(str(folder), f"the folder holds no {_SUFFIX} file", "Give its path: --train_dataset_dir PATH")
    return files
