"""HFDataLoader: what a dataset section of MindFormers 2.x says, on local files.

Nothing is downloaded, and no `datasets` package is needed. Handlers are applied in order to the rows of the files.
Source: MindFormers 2.1, dataset/dataloader/hf_dataloader.py (names, keys and effects).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.data.batch import Example
from mindformers_glm.data.gather import sources
from mindformers_glm.data.hf_handlers import Tokens, as_tokens
from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.records import judge, read_records
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import log_once, logger
from mindformers_glm.registry import DATA_HANDLERS

_BUILDERS = ("json", "csv", "parquet", "text", "arrow", "pandas")
_WITHOUT_EFFECT = {
    "create_attention_mask": "attention is causal, and apart for each part of a packed row",
    "create_compressed_eod_mask": "attention is causal, and apart for each part of a packed row",
    "compressed_eod_mask_length": "attention is causal, and apart for each part of a packed row",
    "adaptor_config": "attention is causal, and apart for each part of a packed row",
    "use_broadcast_data": "every rank reads the files",
    "trust_remote_code": "no code of a dataset is run",
    "streaming": "rows are read from local files",
    "num_proc": "rows are read from local files",
    "cache_dir": "nothing is cached",
    "name": "it chooses a part of a dataset on the Hub",
    "input_columns": "a batch always holds input_ids and labels",
}
_SLICE = re.compile(r"(\w+)(?:\[(\d*%?):(\d*%?)\])?")


class HFDataLoader:
    """Rows of local files as the section of MindFormers names them.

    `path` is json, csv, parquet, text or arrow with `data_files`, or a file or folder (also one that `save_to_disk` or
    a download from the Hub has left); `dataset_dir` (--train_dataset_dir) wins over both. `split` picks a part of a
    folder or of `data_files`, and rows of it ("train[:100]"). `handler` is a list, applied in order: take, skip,
    select, shuffle, rename_column, remove_columns, AlpacaInstructDataHandler, PackingHandler. Rows with `input_ids`
    are taken as they are. Rows without a handler that tokenises are read by their columns, as
    AutoDataLoader does.
    """

    encoded = True
    gives = "rows"
    shard = None

    def __init__(
        self,
        path: str | None = None,
        data_files: str | list[str] | dict[str, Any] | None = None,
        data_dir: str | None = None,
        dataset_path: str | None = None,
        dataset_dir: str | None = None,
        split: str | None = None,
        load_func: str = "load_dataset",
        handler: dict[str, Any] | list[dict[str, Any]] | None = None,
        packing: str | None = None,
        phase: str = "train",
        shuffle: bool | None = False,
        name: str | None = None,
        create_attention_mask: bool | None = None,
        create_compressed_eod_mask: bool | None = None,
        compressed_eod_mask_length: int | None = None,
        use_broadcast_data: bool | None = None,
        adaptor_config: dict[str, Any] | None = None,
        trust_remote_code: bool | None = None,
        streaming: bool | None = None,
        num_proc: int | None = None,
        cache_dir: str | None = None,
        input_columns: list[str] | None = None,
    ) -> None:
        given = dict(locals())
        for word, reason in _WITHOUT_EFFECT.items():
            if given[word]:
                log_once(f"data_loader.{word} has no effect here: {reason}")
        if load_func not in ("load_dataset", "load_from_disk"):
            raise ConfigError("data_loader.load_func", load_func, "Use load_dataset or load_from_disk.")
        self.phase, self.shuffle = phase, bool(shuffle)
        self.files = _files(dataset_dir or data_files, path or dataset_path, data_dir, split, phase)
        self.path = self.files[0] if len(self.files) == 1 else self.files[0].parent
        self.split = split
        self.steps = [_Step(spec, packing) for spec in ([handler] if isinstance(handler, Mapping) else handler or [])]

    @classmethod
    def as_own_data(cls, spec: Mapping[str, Any]) -> dict[str, Any] | None:
        """The AutoDataLoader that reads the same rows by their columns; None where a handler or the rows are ids."""
        if spec.get("handler"):
            return None
        loader = cls(**{key: value for key, value in spec.items() if key != "type"})
        first = next((one for one in read_records(loader.files[0]) if isinstance(one, Record)), None)
        if first is not None and isinstance(first.value, Mapping) and "input_ids" in first.value:
            return None
        listed = [{"path": str(file)} for file in loader.files]
        return {"type": "AutoDataLoader", "phase": loader.phase, "shuffle": loader.shuffle, "datasets": listed}

    def rows_of(self, seq_length: int, tokenizer: Any = None) -> Sequence[Example]:
        """The rows as examples: as long as a handler makes them, otherwise of `seq_length` tokens.

        Raises:
            DataError, ConfigError: a file or a row cannot be used, or a handler is wrong.
        """
        rows: list[Any] = []
        faults: list[Fault] = []
        for file in self.files:
            for record in read_records(file):
                if isinstance(record, Fault):
                    faults.append(record)
                else:
                    rows.append(record)
        judge(self.path, len(rows), faults, 0.5)
        rows = _sliced(rows, self.split)
        length = seq_length
        for step in self.steps:
            rows = step(rows, tokenizer)
            length = step.seq_length or length
        if not rows:
            raise DataError(str(self.path), "no row is left after its handlers", "Look at handler and split")
        examples = [_as_example(as_tokens(row), length, self.path) for row in rows]
        logger.info("Loading %d data success: %s", len(examples), self.path)
        return examples


class _Step:
    """One handler of the list: a registered one, or a method of a dataset that changes which rows there are."""

    def __init__(self, spec: Any, packing: str | None) -> None:
        if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
            raise ConfigError("data_loader.handler", spec, "Every handler needs a type: [{type: take, n: 100}].")
        self.kind, given = spec["type"], {key: value for key, value in spec.items() if key != "type"}
        self.given, self.made = given, None
        if self.kind in DATA_HANDLERS:
            if packing and self.kind == "PackingHandler":
                given.setdefault("pack_strategy", packing)
            self.made = DATA_HANDLERS.build({"type": self.kind, **given}, "data_loader.handler")
        elif self.kind not in _ROWS:
            known = ", ".join([*sorted(_ROWS), *DATA_HANDLERS.names()])
            raise ConfigError("data_loader.handler.type", self.kind, f"No such handler. Known: {known}.")
        self.seq_length = getattr(self.made, "seq_length", None)

    def __call__(self, rows: list[Any], tokenizer: Any) -> list[Any]:
        if self.made is not None:
            return self.made(rows, tokenizer)
        try:
            return _ROWS[self.kind](rows, **self.given)
        except (TypeError, IndexError, KeyError) as error:
            raise ConfigError(
                f"data_loader.handler.{self.kind}", self.given, f"It cannot be applied ({error})."
            ) from error


def _as_example(row: Tokens, length: int, path: Path) -> Example:
    if len(row.ids) > length:
        row = row._replace(ids=row.ids[:length], labels=row.labels[:length])
    labels = list(map(int, row.labels)) if row.shifted else [*map(int, list(row.labels)[1:]), IGNORED]
    missing = length - len(row.ids)
    first = None if row.first_visible is None else [int(place) for place in row.first_visible]
    used = len(row.ids) if row.used is None else row.used
    ids = list(map(int, row.ids))
    return Example(ids + [0] * missing, labels + [IGNORED] * missing, used, first_visible=first)


def _files(named: Any, path: str | None, data_dir: str | None, split: str | None, phase: str) -> list[Path]:
    """The local files of `data_files` or `path`."""
    part = _SLICE.match(split or "train")
    wanted = part.group(1) if part else "train"
    if isinstance(named, Mapping):
        if wanted not in named:
            raise ConfigError("data_loader.split", split, f"data_files has {', '.join(map(str, named))}.")
        named = named[wanted]
    if not named and path and path not in _BUILDERS:
        place = user_path(path)
        if not place.exists():
            fix = (
                "Nothing is downloaded: give local files, path: json with data_files: FILE, or --train_dataset_dir FILE"
            )
            raise DataError(path, "there is no such file or folder (a name on the Hub is none)", fix)
        named = path
    folder = user_path(data_dir) if data_dir else None
    if not named and folder is None:
        raise ConfigError(
            "data_loader.data_files", named, "Name the file: data_files: FILE, or --train_dataset_dir FILE."
        )
    listed = named if isinstance(named, list) else [named] if named else [str(folder)]
    found: list[Path] = []
    for name in listed:
        inside = user_path(str(name))
        inside = folder / inside if folder is not None and named else inside
        here = [source.file for source in sources(inside, phase)]
        of_split = [file for file in here if re.match(rf"{wanted}(?![a-z])", file.name) or wanted in file.parent.parts]
        found += of_split if inside.is_dir() and of_split else here
    return found


def _sliced(rows: list[Any], split: str | None) -> list[Any]:
    """The rows that "train[10:20]" or "train[:5%]" names."""
    if not split or "[" not in split:
        return rows
    match = _SLICE.fullmatch(split)
    if match is None:
        raise ConfigError("data_loader.split", split, 'Write a name, and rows of it: "train[:100]", "train[:5%]".')
    borders = [_border(text, len(rows)) for text in match.groups()[1:]]
    return rows[borders[0] : borders[1]]


def _border(text: str | None, count: int) -> int | None:
    if not text:
        return None
    return round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)


def _take(rows: list[Any], n: int) -> list[Any]:
    return rows[:n]


def _skip(rows: list[Any], n: int) -> list[Any]:
    return rows[n:]


def _select(rows: list[Any], indices: list[int]) -> list[Any]:
    return [rows[index] for index in indices]


def _shuffle(rows: list[Any], seed: int | None = None) -> list[Any]:
    """The order of `datasets`: NumPy's default generator, 0 where no seed is given."""
    return [rows[index] for index in np.random.default_rng(seed or 0).permutation(len(rows))]


def _rename(rows: list[Any], original_column_name: str, new_column_name: str) -> list[Any]:
    def renamed(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {new_column_name if key == original_column_name else key: item for key, item in value.items()}

    return [row._replace(value=renamed(row.value)) for row in rows]


def _remove(rows: list[Any], column_names: str | list[str]) -> list[Any]:
    gone = {column_names} if isinstance(column_names, str) else set(column_names)

    def left(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: item for key, item in value.items() if key not in gone}

    return [row._replace(value=left(row.value)) for row in rows]


_ROWS: dict[str, Callable[..., list[Any]]] = {
    "take": _take,
    "skip": _skip,
    "select": _select,
    "shuffle": _shuffle,
    "rename_column": _rename,
    "remove_columns": _remove,
}
