"""Question-answer pairs from files: ADGEN and whatever else has two columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from mindformers_glm.data.forms import Form
from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.records import read_rows
from mindformers_glm.data.source import data_file
from mindformers_glm.errors import ConfigError, kind_of
from mindformers_glm.log import logger
from mindformers_glm.registry import DATA_LOADERS

Phase = Literal["train", "eval"]
Rounds = tuple[tuple[str, str], ...]
# Columns that change what is learned: where a loader does not read them, the user is warned; others are only named.
_MATTERS = {
    *("history", "input", "system", "system_prompt", "context", "instruction", "prompt", "query", "question"),
    *("response", "output", "answer", "tools", "functions", "conversations", "messages", "images", "image"),
    *("videos", "audios", "weight", "loss", "chosen", "rejected"),
}


class Pair(NamedTuple):
    """A prompt, the answer to it, the line of the file, and the rounds (question, answer) before."""

    line: int
    prompt: str
    answer: str
    history: Rounds = ()


class FileLoader:
    """Rows of one file, in order; `convert` says what a record becomes.

    `num_samples` keeps the first usable rows. `num_shards` and `shard_id` replace the ranks of the run where a
    configuration sets them. Without `shuffle`, the train phase shuffles and the eval phase does not. Rows that cannot
    be used are named, counted and skipped; more than `max_bad_ratio` of all stop the run. Columns that are not read
    are named too.
    """

    encoded = False  # True where rows are token ids already
    gives = "rows"  # what a row is, for messages
    reads: frozenset[str] = frozenset()  # columns that `convert` looks at

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
        if not 0 <= max_bad_ratio <= 1:
            raise ConfigError("data_loader.max_bad_ratio", max_bad_ratio, "It is a share of all rows, from 0 to 1.")
        self.path = data_file(dataset_dir, phase)
        self.phase = phase
        self.shuffle = phase == "train" if shuffle is None else shuffle
        self.shard = None if num_shards is None else (shard_id, num_shards)
        self.max_bad_ratio = max_bad_ratio
        self.rows: list[Any] = self.read()[:num_samples]
        logger.info("Loading %d data success: %s", len(self.rows), self.path)

    def read(self) -> list[Any]:
        """Rows of the whole file."""
        unread: Counter[str] = Counter()

        def convert(record: Record) -> Any:
            row = self.convert(record)
            if isinstance(record.value, Mapping):
                unread.update(name for name, value in record.value.items() if value and name not in self.reads)
            return row

        self.faults: list[Fault] = []
        rows = read_rows(self.path, convert, max_bad_ratio=self.max_bad_ratio, faults=self.faults)
        self._tell_unread(unread)
        return rows

    def convert(self, record: Record) -> Any:
        """The row of a record.

        Raises:
            ValueError: the record cannot be used; the message says why.
        """
        return record

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def fits(cls, spec: Mapping[str, Any], form: Form) -> bool:
        """Whether the loader, with the arguments `spec`, is the one for rows of a form."""
        return DATA_LOADERS.get(form.loader["type"]) is cls and ("columns" in spec or "columns" not in form.loader)

    def _tell_unread(self, unread: Counter[str]) -> None:
        names = ", ".join(f"`{name}` ({count} rows)" for name, count in unread.items() if name in _MATTERS)
        if names:
            logger.warning(
                "%s: %s does not read the columns %s: nothing of them is learned.",
                self.path,
                type(self).__name__,
                names,
            )
        others = [name for name in unread if name not in _MATTERS]
        if others:
            logger.info("%s: columns that are not read: %s", self.path, ", ".join(map(str, others[:20])))


class ADGenDataLoader(FileLoader):
    """Pairs of a JSON-lines file such as ADGEN: `origin_columns` names the prompt and the answer.

    A column `history` ([[question, answer], ...]) holds the rounds before. `version` says to KeyWordGenDataset how a
    pair becomes tokens: 2 for ChatGLM2, 3 for ChatGLM3.
    """

    gives = "pairs"

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
        self.reads = frozenset((*self.columns, "history"))
        self.version = version
        super().__init__(dataset_dir, phase, shuffle, num_samples, num_shards, shard_id, max_bad_ratio)

    @classmethod
    def fits(cls, spec: Mapping[str, Any], form: Form) -> bool:
        """Whether the prompt and the answer are among the columns."""
        return set(spec.get("origin_columns") or ("content", "summary")) <= form.columns

    def convert(self, record: Record) -> Pair:
        """Prompt and answer; both must be text that is not blank."""
        prompt, answer = (text_column(record.value, name) for name in self.columns)
        return Pair(record.line, prompt, answer, rounds_column(record.value, "history"))


def text_column(value: Any, name: str) -> str:
    """The text under a name.

    Raises:
        ValueError: the record is no object, or lacks the column, or it is blank or not text.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"not an object but {kind_of(value)}")
    if name not in value:
        raise ValueError(f"no column {name!r} among {', '.join(map(str, value)) or 'none'}")
    text = optional_text(value, name)
    if not text.strip():
        raise ValueError(f"{name!r} is blank")
    return text


def optional_text(value: Mapping[str, Any], name: str) -> str:
    """The text under a name, "" where there is none.

    Raises:
        ValueError: it is not text, or text that is no Unicode (half of a surrogate pair).
    """
    text = value.get(name)
    if text is None and name in value:
        text = ""
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{name!r} is not text but {kind_of(text)}")
    return whole_text(text, name)


def whole_text(text: str, name: str) -> str:
    r"""The text, when it can be written as UTF-8: JSON may hold halves of a character such as "\ud83d".

    Raises:
        ValueError: it cannot.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} holds half a character ({text[error.start]!a})") from error
    return text


def rounds_column(value: Mapping[str, Any], name: str) -> Rounds:
    """Past rounds (question, answer) under a name: a list of pairs, also as JSON in a text; () where there is none.

    Raises:
        ValueError: something else stands there, or an answer is blank.
    """
    given = parsed_text(value.get(name), name)
    if given is None or given == "":
        return ()
    if not isinstance(given, list):
        raise ValueError(f"{name!r} is not a list of rounds but {kind_of(given)}")
    for item in given:
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise ValueError(f"{name!r} is not a list of pairs [question, answer]")
        question, answer = item
        if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
            kind = "blank" if answer is None or answer == "" or isinstance(answer, str) else "not text"
            raise ValueError(f"a question or an answer in {name!r} is {kind}")
        whole_text(question + answer, name)
    return tuple((question, answer) for question, answer in given)


def parsed_text(value: Any, name: str) -> Any:
    """The value; where it is JSON in a text (as in csv files), what that says.

    Raises:
        ValueError: the text begins like JSON and is none.
    """
    if not isinstance(value, str):
        return value
    if value.strip()[:1] not in ("[", "{"):
        return value.strip()
    try:
        return json.loads(value, strict=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name!r} is not JSON ({error})") from error
