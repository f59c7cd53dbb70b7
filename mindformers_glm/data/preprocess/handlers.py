"""What a record becomes in a corpus: one class a handler, registered by the name that `--handler-name` takes.

Names, files and rules of ModelLink 1.1 (modellink/data_handler.py and prompter.py), and Megatron's own builder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.data.indexed.pair import narrowest_dtype
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.registry import Registry

HANDLERS = Registry("handler", complete=True)  # the package imports its handlers
_CONVERSATION = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.USER: Below is an instruction that describes a task. Write a response "
    "that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n###{more}\n\n### Response: "
    "ASSISTANT: {output}"
)
_PACKED_TOGETHER = 4096  # records that may share packed rows


class Encoded(NamedTuple):
    """One output of some records: ids end to end, the length of each sequence, and the sequences of each document.

    A document of 0 sequences keeps its border.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    per_document: np.ndarray


class Handler(ABC):
    """Turns records into sequences of ids for one or more outputs. `tokenizer` is a GLM tokenizer.

    Records come `chunk_records` at a time, whatever the number of processes. `pack` joins several in one sequence.
    """

    chunk_records = 256
    packs = False  # whether `pack` says something for this handler

    def __init__(
        self,
        tokenizer: Any,
        *,
        json_keys: Sequence[str] = ("text",),
        append_eod: bool = False,
        seq_length: int | None = None,
        pack: bool = False,
    ) -> None:
        self.tokenizer, self.json_keys = tokenizer, tuple(json_keys)
        self.append_eod, self.seq_length, self.pack = append_eod, seq_length, pack
        if pack and not self.packs:
            fix = "Running text is laid end to end when it is read: leave --pack out."
            raise ConfigError("--pack", type(self).__name__, fix)
        if pack and not seq_length:
            raise ConfigError("--pack", None, "Say how long the packed rows are: --seq-length N.")
        if pack:
            self.chunk_records = _PACKED_TOGETHER
        self.prefix, self.eod = list(tokenizer.get_prefix_tokens()), int(tokenizer.eos_token_id)

    @property
    def dtype(self) -> np.dtype:
        """Type of the ids on disk."""
        return np.dtype("<i4")

    @property
    @abstractmethod
    def outputs(self) -> list[str]:
        """What is appended to the prefix, one name for each pair that is written."""

    @abstractmethod
    def encode(self, place: str, records: Sequence[tuple[int, Any]]) -> dict[str, Encoded]:
        """The sequences of some (line, record) for each output.

        Raises:
            DataError: a record has no such column, or no text in it; it is named by line.
        """

    def fits(self, row: Sequence[int]) -> bool:
        """Whether a sequence is written: shorter than `seq_length`, where there is one."""
        return self.seq_length is None or len(row) < self.seq_length

    def _texts(self, place: str, records: Sequence[tuple[int, Any]], key: str) -> list[str]:
        found = []
        for line, record in records:
            found.append(text_of(place, line, record, key, fix="Name the column with --json-keys, or repair the line"))
        return found


@HANDLERS.register()
class GeneralPretrainHandler(Handler):
    """Running text for pretraining: the tokenizer's prefix, the text as it is, the end mark with `append_eod`.

    A text that is empty leaves no trace. With `seq_length`, a text of so many ids or more is left out and its document
    border stays, as in ModelLink. Files: PREFIX_<key>_document.
    """

    @property
    def outputs(self) -> list[str]:
        """See Handler."""
        return [f"_{key}_document" for key in self.json_keys]

    def encode(self, place: str, records: Sequence[tuple[int, Any]]) -> dict[str, Encoded]:
        """See Handler."""
        found = {}
        for key, output in zip(self.json_keys, self.outputs, strict=True):
            texts = [text for text in self._texts(place, records, key) if text]
            end = [self.eod] if self.append_eod else []
            rows = [[*self.prefix, *ids, *end] for ids in self.tokenizer.vocabulary.encode_many(texts)]
            kept = [self.fits(row) for row in rows]
            rows = [row for row, fits in zip(rows, kept, strict=True) if fits]
            found[output] = encoded(rows, self.dtype, np.array(kept, np.int64))
        return found


@HANDLERS.register()
class MegatronHandler(GeneralPretrainHandler):
    """Megatron's own builder (`--format megatron`): bare ids, uint16 for vocabularies below 65,500.

    `append_eod` ends each document that has ids; an empty document keeps its border and has no sequence.
    """

    @property
    def dtype(self) -> np.dtype:
        """See Handler."""
        return narrowest_dtype(self.tokenizer.vocab_size)

    def encode(self, place: str, records: Sequence[tuple[int, Any]]) -> dict[str, Encoded]:
        """See Handler."""
        found = {}
        for key, output in zip(self.json_keys, self.outputs, strict=True):
            rows = self.tokenizer.vocabulary.encode_many(self._texts(place, records, key))
            counts = np.array([bool(ids) for ids in rows], np.int64)
            end = [self.eod] if self.append_eod else []
            found[output] = encoded([[*ids, *end] for ids in rows if ids], self.dtype, counts)
        return found


@HANDLERS.register()
class AlpacaPretrainHandler(GeneralPretrainHandler):
    """Alpaca rows as running text, in ModelLink's words. Files: PREFIX_text_document."""

    def __init__(self, tokenizer: Any, **settings: Any) -> None:
        super().__init__(tokenizer, **{**settings, "json_keys": ("text",)})

    def encode(self, place: str, records: Sequence[tuple[int, Any]]) -> dict[str, Encoded]:
        """See Handler."""
        return super().encode(place, [(line, {"text": self._text(place, line, record)}) for line, record in records])

    @staticmethod
    def _text(place: str, line: int, record: Any) -> str:
        fix = "This handler reads alpaca rows: instruction, input, output"
        instruction, output = (text_of(place, line, record, name, fix=fix) for name in ("instruction", "output"))
        more = f" Input:\n{record['input']}" if record.get("input") else None  # None is written out, as there
        return _CONVERSATION.format(instruction=instruction, more=more, output=output)


def text_of(place: str, line: int, record: Any, key: str, *, fix: str) -> str:
    """The text of a record under a column.

    Raises:
        DataError: there is none; the line and its columns are named.
    """
    value = record.get(key) if isinstance(record, Mapping) else None
    if isinstance(value, str):
        return value
    columns = ", ".join(map(str, record)) if isinstance(record, Mapping) else "none"
    raise DataError(place, f"line {line} has no text under {key!r} (its columns: {columns})", fix)


def encoded(rows: Sequence[Sequence[int]], dtype: np.dtype, per_document: np.ndarray) -> Encoded:
    """Sequences end to end, in the type of the files."""
    lengths = np.fromiter((len(row) for row in rows), "<i4", len(rows))
    tokens = np.fromiter(chain.from_iterable(rows), dtype, int(lengths.sum(dtype=np.int64)))
    return Encoded(tokens, lengths, per_document)
