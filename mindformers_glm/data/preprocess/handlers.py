"""What a record becomes in a corpus: one class a handler, registered by the name that `--handler-name` takes.

Names, files and rules of ModelLink 1.1 (modellink/data_handler.py and prompter.py), and Megatron's own builder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.data.batch import IGNORED
from mindformers_glm.data.indexed.pair import narrowest_dtype
from mindformers_glm.data.packing import join, neat
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.registry import Registry

HANDLERS = Registry("handler")
_PACKED_TOGETHER = 4096  # records that may share packed rows
_REQUEST = (
    "\nBelow is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request. Please note that you need to think through your response "
    "logically and step by step.\n### Instruction:\n{instruction}\n{input}\n### Response:\n"
)


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

    def _texts(self, place: str, records: Sequence[tuple[int, Any]], key: str) -> list[str]:
        found = []
        for line, record in records:
            value = record.get(key) if isinstance(record, Mapping) else None
            if not isinstance(value, str):
                columns = ", ".join(map(str, record)) if isinstance(record, Mapping) else "none"
                fault = f"line {line} has no text under {key!r} (its columns: {columns})"
                raise DataError(place, fault, "Name the column with --json-keys, or repair the line")
            found.append(value)
        return found


@HANDLERS.register()
class GeneralPretrainHandler(Handler):
    """Running text for pretraining: the tokenizer's prefix, the text as it is, the end mark with `append_eod`.

    A text that is empty leaves no trace. Files: PREFIX_<key>_document.
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
            found[output] = _packed(rows, self.dtype, np.ones(len(rows), np.int64))
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
            found[output] = _packed([[*ids, *end] for ids in rows if ids], self.dtype, counts)
        return found


@HANDLERS.register()
class GeneralInstructionHandler(Handler):
    """Instruction, input and output in the template of Alpaca; the answer alone is learned.

    Files: PREFIX_packed_{input_ids,attention_mask,labels}_document. With `seq_length`, a row of so many ids or more is
    left out and its document border stays, as in ModelLink. With `pack` too, rows of at most `seq_length` - 1 ids go
    together (packing.neat, in groups of some thousand) and are filled up; the mask counts them from 1, and training
    keeps them apart. Longer rows leave no trace then.
    """

    packs = True

    columns = ("instruction", "input", "output")

    @property
    def outputs(self) -> list[str]:
        """See Handler."""
        return [f"_packed_{name}_document" for name in ("input_ids", "attention_mask", "labels")]

    def encode(self, place: str, records: Sequence[tuple[int, Any]]) -> dict[str, Encoded]:
        """See Handler."""
        asked = [_REQUEST.format(**self._row(place, line, record)) for line, record in records]
        answers = [f"{record['output']}\n" for _, record in records]
        encode = self.tokenizer.vocabulary.encode_many
        wholes = encode([request + answer for request, answer in zip(asked, answers, strict=True)])
        marked = encode([self._up_to_answer(request + answer) for request, answer in zip(asked, answers, strict=True)])
        ids, labels, counts = [], [], []
        end = [self.eod] if self.append_eod else []
        for whole, prompt in zip(wholes, marked, strict=True):
            row, masked = [*self.prefix, *whole, *end], len(self.prefix) + len(prompt)
            counts.append(int(self.seq_length is None or len(row) < self.seq_length))
            if counts[-1]:
                ids.append(row)
                labels.append([IGNORED] * masked + row[masked:])
        masks: list[list[int]] = [[1] * len(row) for row in ids]
        if self.pack:
            rows = list(zip(ids, labels, strict=True))
            length = int(self.seq_length or 0)
            packs = [join([rows[n] for n in pack], length) for pack in neat([len(row) for row in ids], length - 1)]
            ids, labels = [p.input_ids.tolist() for p in packs], [p.labels.tolist() for p in packs]
            masks, counts = [p.segments.tolist() for p in packs], [1] * len(packs)
        made = [ids, masks, labels]
        per_document = np.array(counts, np.int64)
        return {name: _packed(rows, self.dtype, per_document) for name, rows in zip(self.outputs, made, strict=True)}

    def _row(self, place: str, line: int, record: Any) -> dict[str, str]:
        given = record if isinstance(record, Mapping) else {}
        found = {name: given.get(name) for name in self.columns}
        found["input"] = found["input"] or ""
        for name, value in found.items():
            if not isinstance(value, str):
                fault = f"line {line} has no text under {name!r} (its columns: {', '.join(map(str, given)) or 'none'})"
                raise DataError(place, fault, "This handler reads alpaca rows: instruction, input, output")
        return found

    @staticmethod
    def _up_to_answer(text: str) -> str:
        mark = "### Response:\n"
        return text[: text.rindex(mark) + len(mark)]


def _packed(rows: Sequence[Sequence[int]], dtype: np.dtype, per_document: np.ndarray) -> Encoded:
    lengths = np.fromiter((len(row) for row in rows), "<i4", len(rows))
    tokens = np.fromiter(chain.from_iterable(rows), dtype, int(lengths.sum(dtype=np.int64)))
    return Encoded(tokens, lengths, per_document)
