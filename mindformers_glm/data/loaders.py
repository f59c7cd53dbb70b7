"""Question-answer pairs from files: ADGEN and whatever else has two columns."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from mindformers_glm.data.records import Record, data_file, read_rows
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger
from mindformers_glm.registry import DATA_LOADERS

Phase = Literal["train", "eval"]


class Pair(NamedTuple):
    """A prompt, the answer to it, and the line of the file."""

    line: int
    prompt: str
    answer: str


class FileLoader:
    """Rows of one file, in order; `convert` says what a record becomes.

    `num_samples` keeps the first usable rows. `num_shards` and `shard_id` replace the ranks of the run where a
    configuration sets them. Without `shuffle`, the train phase shuffles and the eval phase does not.
    """

    encoded = False  # True where rows are token ids already

    def __init__(
        self,
        dataset_dir: str,
        phase: Phase = "train",
        shuffle: bool | None = None,
        num_samples: int | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        max_bad_ratio: float = 0.5,
    ) -> None:
        if phase not in ("train", "eval"):
            raise ConfigError("data_loader.phase", phase, "Use train or eval.")
        if num_samples is not None and num_samples < 1:
            raise ConfigError("data_loader.num_samples", num_samples, "Use 1 or more, or leave it out.")
        if (num_shards is None) != (shard_id is None):
            raise ConfigError("data_loader.num_shards", num_shards, "Give num_shards and shard_id together.")
        self.path = data_file(dataset_dir, phase)
        self.phase = phase
        self.shuffle = phase == "train" if shuffle is None else shuffle
        self.shard = None if num_shards is None else (shard_id, num_shards)
        self.max_bad_ratio = max_bad_ratio
        self.rows: list[Any] = self.read()[:num_samples]
        logger.info("Loading %d data success: %s", len(self.rows), self.path)

    def read(self) -> list[Any]:
        """Rows of the whole file."""
        return read_rows(self.path, self.convert, max_bad_ratio=self.max_bad_ratio)

    def convert(self, record: Record) -> Any:
        """The row of a record.

        Raises:
            ValueError: the record cannot be used; the message says why.
        """
        return record

    def __len__(self) -> int:
        return len(self.rows)


@DATA_LOADERS.register()
class ADGenDataLoader(FileLoader):
    """Pairs of a JSON-lines file such as ADGEN: `origin_columns` names the prompt and the answer.

    `version` says to KeyWordGenDataset how a pair becomes tokens: 2 for ChatGLM2, 3 for ChatGLM3.
    """

    def __init__(
        self,
        dataset_dir: str,
        phase: Phase = "train",
        shuffle: bool | None = None,
        origin_columns: list[str] | tuple[str, ...] = ("content", "summary"),
        version: int = 2,
        num_samples: int | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        max_bad_ratio: float = 0.5,
    ) -> None:
        if len(origin_columns) != 2:
            raise ConfigError("data_loader.origin_columns", origin_columns, "Name two columns: prompt and answer.")
        self.columns = tuple(origin_columns)
        self.version = version
        super().__init__(dataset_dir, phase, shuffle, num_samples, num_shards, shard_id, max_bad_ratio)

    def convert(self, record: Record) -> Pair:
        """Prompt and answer; both must be text that is not blank."""
        return Pair(record.line, *(text_column(record.value, name) for name in self.columns))


def text_column(value: Any, name: str) -> str:
    """The text under a name.

    Raises:
        ValueError: the record is no object, or lacks the column, or it is blank or not text.
    """
    if not isinstance(value, dict):
        raise ValueError(f"not an object but {type(value).__name__}")
    if name not in value:
        raise ValueError(f"no column {name!r} among {', '.join(map(str, value)) or 'none'}")
    text = value[name]
    if not isinstance(text, str):
        raise ValueError(f"{name!r} is not text but {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"{name!r} is blank")
    return text
