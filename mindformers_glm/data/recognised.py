"""AutoDataLoader: rows of one or several files of any known form, mixed by weight, a part kept for validation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from mindformers_glm.data.conversations import Conversation
from mindformers_glm.data.forms import Form, form_of
from mindformers_glm.data.gather import Source, sources
from mindformers_glm.data.loaders import Pair, Phase
from mindformers_glm.data.record import Fault
from mindformers_glm.data.records import read_records
from mindformers_glm.data.source import suffix_of
from mindformers_glm.errors import ConfigError, DataError, kind_of
from mindformers_glm.log import logger
from mindformers_glm.registry import DATA_LOADERS
from mindformers_glm.tokenizers import Message

_LOOKED_AT = 20  # records that say what a file is
_KNOWN = (
    "content/summary (ADGEN); instruction/input/output with system and history (alpaca); prompt/response and the like; "
    "conversations or messages with role/content or from/value (ChatGLM3, OpenAI, ShareGPT, tools); text"
)


class Chosen(NamedTuple):
    """A file, the form of its rows, and the arguments of the loader that reads it."""

    source: Source
    form: Form
    loader: dict[str, Any]


def recognise(source: Source) -> Form:
    """The form of a file's rows, told by the columns of its first ones.

    Raises:
        DataError: no form that is known, or one that is not learned from.
    """
    place = str(source.file)
    if suffix_of(source.file) == ".txt":
        return Form("plain text", {"type": "TextDataLoader"}, "CausalLanguageModelDataset")
    seen = [record for record in islice(read_records(source.file), _LOOKED_AT)]
    values = [record.value for record in seen if not isinstance(record, Fault)]
    form = next((form for form in map(form_of, values) if form is not None), None)
    if form is None and not values:
        first = f"; {seen[0]}" if seen else ""
        raise DataError(place, f"the file holds no records{first}", f"Write one JSON object per line with {_KNOWN}")
    if form is None:
        columns = ", ".join(map(str, values[0])) if isinstance(values[0], Mapping) else kind_of(values[0])
        fault = f"columns that no form has: {columns[:200]}"
        fix = f"Known are {_KNOWN}. Or name the columns: data_loader.columns: {{prompt: ..., response: ...}}"
        raise DataError(place, fault, fix)
    if form.refused:
        raise DataError(place, f"the rows are {form.name}", form.refused)
    return form


class AutoDataLoader:
    """Rows of files whose form is told by their columns (data/forms.py); the log says what was taken.

    `dataset_dir` is a file, a folder, a glob, or a folder with LLaMA-Factory's dataset_info.json, whose entries
    `dataset` names. Or `datasets` lists several: [{path, weight, num_samples, columns, type, ...}]; with weight 2 the
    rows of a file come twice an epoch, with 0.25 a quarter of them, drawn by `split_seed`. `validation_share` keeps
    such a share of the rows (or, from 1 on, so many rows) out of the part "train"; the part "validation" is these rows,
    by the same seed. Where all files are pairs (ADGEN) or documents, so are the rows; else they are conversations.
    """

    encoded = False

    def __init__(
        self,
        dataset_dir: str | None = None,
        phase: Phase = "train",
        shuffle: bool | None = None,
        dataset: str | list[str] | None = None,
        datasets: list[dict[str, Any]] | None = None,
        validation_share: float = 0.0,
        part: Literal["train", "validation", "all"] = "train",
        split_seed: int = 0,
        version: int = 2,
        columns: dict[str, str] | None = None,
        num_samples: int | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        max_bad_ratio: float = 0.5,
    ) -> None:
        if part not in ("train", "validation", "all"):
            raise ConfigError("data_loader.part", part, "Use train, validation or all.")
        if validation_share < 0:
            raise ConfigError(
                "data_loader.validation_share", validation_share, "Use a share below 1, or a number of rows."
            )
        if part == "validation" and not validation_share:
            raise ConfigError("data_loader.validation_share", 0, "The part validation needs a share, such as 0.05.")
        if (num_shards is None) != (shard_id is None):
            raise ConfigError("data_loader.num_shards", num_shards, "Give num_shards and shard_id together.")
        self.phase, self.version = phase, version
        self.shuffle = (phase == "train" and part != "validation") if shuffle is None else shuffle
        self.shard = None if num_shards is None else (shard_id, num_shards)
        self.max_bad_ratio = max_bad_ratio
        listed = datasets or [{"path": dataset_dir, **({"dataset": dataset} if dataset else {})}]
        common = {"max_bad_ratio": max_bad_ratio, "num_samples": num_samples, "columns": columns}
        groups = [(entry, self._read(entry, common, number)) for number, entry in enumerate(listed)]
        kinds = {loader.gives for _, loaders in groups for loader in loaders}
        if "documents" in kinds and len(kinds) > 1:
            fix = "Train on text and on conversations in two runs."
            raise ConfigError("data_loader.datasets", sorted(kinds), fix)
        self.gives = kinds.pop() if len(kinds) == 1 else "conversations"
        rng = np.random.default_rng(split_seed)
        self.rows: list[Any] = []
        for entry, loaders in groups:
            rows = [
                as_conversation(row) if self.gives == "conversations" else row for one in loaders for row in one.rows
            ]
            rows = _part(rows, validation_share, part, rng)
            self.rows += rows if part == "validation" else _weighted(rows, entry.get("weight", 1), rng)
        self.faults = [fault for _, loaders in groups for loader in loaders for fault in getattr(loader, "faults", [])]
        paths = [loader.path for _, loaders in groups for loader in loaders]
        self.path = paths[0] if len(paths) == 1 else paths[0].parent
        if not self.rows:
            fault = f"no row is left for the part {part}"
            raise DataError(str(self.path), fault, "Lower validation_share, or raise weights")

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, entry: Any, common: Mapping[str, Any], number: int) -> list[Any]:
        """The loaders of one entry of `datasets`: one for each file."""
        key = f"data_loader.datasets.{number}"
        if not isinstance(entry, Mapping) or not (entry.get("path") or entry.get("dataset_dir")):
            raise ConfigError(key, entry, "Every dataset needs a path: [{path: a.json, weight: 1}, ...].")
        weight = entry.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= 1000:
            raise ConfigError(f"{key}.weight", weight, "Use a number above 0: how often its rows come in an epoch.")
        own = {name: value for name, value in entry.items() if name not in ("path", "dataset_dir", "weight", "dataset")}
        found = sources(entry.get("path") or entry["dataset_dir"], self.phase, names=entry.get("dataset"))
        return [self._loader(source, own, common, key) for source in found]

    def _loader(self, source: Source, own: Mapping[str, Any], common: Mapping[str, Any], key: str) -> Any:
        columns = own.get("columns") or common["columns"]
        if own.get("type"):
            chosen, said = {"type": own["type"]}, own["type"]
        elif source.loader:
            chosen, said = source.loader, "as dataset_info.json says"
        elif columns:
            chosen, said = {"type": "AlpacaDataLoader"}, "columns named"
        else:
            form = recognise(source)
            chosen, said = form.loader, form.name
        given = {name: value for name, value in common.items() if value is not None and name != "columns"}
        more = {name: value for name, value in own.items() if name != "type"}
        spec = {**given, **chosen, **({"columns": columns} if columns else {}), **more}
        logger.info("%s: %s, read by %s", source.file, said, chosen["type"])
        return DATA_LOADERS.build({**spec, "dataset_dir": str(source.file), "phase": self.phase}, key)


def as_conversation(row: Conversation | Pair) -> Conversation:
    """A row as messages; a pair is its rounds."""
    if isinstance(row, Conversation):
        return row
    rounds = [*row.history, (row.prompt, row.answer)]
    roles = ("user", "assistant")
    return Conversation(row.line, [Message(*said) for pair in rounds for said in zip(roles, pair, strict=True)])


def _part(rows: list[Any], share: float, part: str, rng: np.random.Generator) -> list[Any]:
    if not share or part == "all":
        return rows
    count = int(share) if share >= 1 else max(min(1, len(rows) - 1), round(share * len(rows)))
    kept = set(rng.permutation(len(rows))[: min(count, len(rows))].tolist())
    return [row for number, row in enumerate(rows) if (number in kept) == (part == "validation")]


def _weighted(rows: list[Any], weight: float, rng: np.random.Generator) -> list[Any]:
    whole, rest = int(weight), weight - int(weight)
    drawn = sorted(rng.permutation(len(rows))[: round(rest * len(rows))].tolist())
    return rows * whole + [rows[number] for number in drawn]
