"""CausalLanguageModelDataset: running text, or token files, as rows in which every token is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.data.batch import Example
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.data.forms import Form
from mindformers_glm.data.loaders import FileLoader, Phase, whole_text
from mindformers_glm.data.order import Order
from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.records import judge
from mindformers_glm.data.section import built_loader, built_tokenizer, require, require_rows, takes_section
from mindformers_glm.data.source import data_file, lines_of, read_data, refuse_encoding, suffix_of
from mindformers_glm.errors import DataError
from mindformers_glm.labels import IGNORED

_CHUNK = 1000  # documents tokenised at a time


class Document(NamedTuple):
    """A text and the line it starts on."""

    line: int
    text: str


class TextDataLoader(FileLoader):
    """Documents: lines of a .txt file, or the column `text_column` of JSON lines, JSON arrays and tables."""

    gives = "documents"

    def __init__(
        self,
        dataset_dir: str,
        phase: Phase = "train",
        shuffle: bool | None = None,
        text_column: str = "text",
        num_samples: int | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        max_bad_ratio: float = 0.5,
    ) -> None:
        self.column, self.reads = text_column, frozenset((text_column,))
        super().__init__(dataset_dir, phase, shuffle, num_samples, num_shards, shard_id, max_bad_ratio)

    @classmethod
    def fits(cls, spec: Mapping[str, Any], form: Form) -> bool:
        """Whether the text's column is there; rows that are texts have none."""
        return not form.columns or spec.get("text_column", "text") in form.columns

    def convert(self, record: Record) -> Document:
        """The text of a record."""
        text = record.value.get(self.column) if isinstance(record.value, dict) else record.value
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"no text under {self.column!r}")
        return Document(record.line, whole_text(text, self.column))

    def read(self) -> list[Document]:
        """Documents of the file."""
        if suffix_of(self.path) != ".txt":
            return super().read()
        lines, faults = [], []
        raw = read_data(self.path)
        refuse_encoding(self.path, raw)
        for number, line in lines_of(raw):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                faults.append(Fault(number, "not UTF-8"))
                continue
            if text.strip():
                lines.append(Document(number, text))
        judge(self.path, len(lines), faults, self.max_bad_ratio)
        return lines


class TokenDataLoader:
    """Token ids of a .npy file: a row of integers, read as they are needed (memory-mapped)."""

    encoded = True
    shard = None

    def __init__(self, dataset_dir: str, phase: Phase = "train", shuffle: bool | None = None) -> None:
        self.path: Path = data_file(dataset_dir, phase)
        self.phase, self.shuffle = phase, phase == "train" if shuffle is None else shuffle
        try:
            self.tokens = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(str(self.path), "this is not a .npy file", "Save the ids with numpy.save") from error
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            fault = f"expected one row of integers, found shape {self.tokens.shape} of {self.tokens.dtype}"
            raise DataError(str(self.path), fault, "Save the ids as a one-dimensional integer array")


@takes_section
class CausalLanguageModelDataset(TokenDataset):
    """Rows (B, seq_length): `[gMASK] sop` and then text, documents one after the other with eos between them.

    Every token but the two special ones is learned, also the first of a row. With `packing: False` a row holds the
    beginning of one document. Rows made by a MindDataset loader or an IndexedDataLoader are taken as they are.
    """

    def __init__(
        self,
        data_loader: dict | Any = None,
        tokenizer: dict | Any = None,
        seq_length: int = 2048,
        packing: bool = True,
        max_unsupervised: int = 0,
        batch_size: int = 8,
        drop_remainder: bool = True,
        repeat: int = 1,
        seed: int | None = 0,
        rank: int = 0,
        rank_size: int = 1,
        prefetch_size: int = 2,
    ) -> None:
        self.loader = loader = built_loader(data_loader, "data_loader")
        require_rows(loader, "documents", self)
        indexed = getattr(loader, "rows_of", None)
        if indexed is not None:
            known = built_tokenizer(tokenizer, "tokenizer") if tokenizer is not None else None
            self.ready: Sequence[Example] = indexed(seq_length, known)
        else:
            self.ready = getattr(loader, "rows", []) if loader.encoded else []
        self.tokenizer: Any = None if self.ready else built_tokenizer(tokenizer, "tokenizer")
        self.length = seq_length
        require(seq_length > 3, "seq_length", seq_length, "Use 4 or more: two go to [gMASK] sop.")
        self.stream, self.starts, self.lines = self._tokens()
        self.packing = packing or loader.encoded
        shard, shards = loader.shard or (rank, rank_size)
        order = Order(
            num_rows=self._count_rows(),
            batch_size=batch_size,
            seed=seed or 0,
            shuffle=loader.shuffle,
            drop_remainder=drop_remainder,
            repeat=repeat,
            rank=shard,
            rank_size=shards,
        )
        super().__init__(
            order=order, place=str(loader.path), prefetch_size=prefetch_size, max_unsupervised=max_unsupervised
        )
        self.probe()

    def example(self, index: int) -> Example:
        """Row `index` as padded ids and labels."""
        if self.ready:
            return self.ready[index]
        room = self.length - 2
        begin, end = self._span(index, room)
        text = self.stream[begin:end].tolist()
        if self.loader.encoded and not 0 <= min(text) <= max(text) < self.tokenizer.vocab_size:
            fault = f"ids {begin} to {end} reach from {min(text)} to {max(text)}, beyond the tokenizer"
            raise DataError(self.place, fault, f"Make the ids with this tokenizer ({self.tokenizer.vocab_file})")
        ids = [*self.tokenizer.get_prefix_tokens(), *text[:room]]
        labels = [IGNORED, *text[: room + 1]]
        pad = [self.tokenizer.pad_token_id] * (self.length - len(ids))
        return Example(ids + pad, labels + [IGNORED] * (self.length - len(labels)), len(ids), self._cut(index, room))

    def line(self, index: int) -> int:
        """Line of the file where the document begins that row `index` opens with."""
        if self.ready or not self.lines:
            return index + 1
        if not self.packing:
            return self.lines[index]
        return self.lines[int(np.searchsorted(self.starts, index * (self.length - 2), side="right")) - 1]

    def _tokens(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """All ids in a row, where each document begins among them, and its line."""
        if self.ready:
            return np.zeros(0, np.int32), np.zeros(0, np.int64), []
        if self.loader.encoded:
            return self.loader.tokens, np.zeros(1, np.int64), []
        documents, parts, eos = self.loader.rows, [], self.tokenizer.eos_token_id
        for begin in range(0, len(documents), _CHUNK):
            texts = [document.text for document in documents[begin : begin + _CHUNK]]
            parts += [np.array([*ids, eos], np.int32) for ids in self.tokenizer.vocabulary.encode_many(texts)]
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return np.concatenate(parts), starts, [document.line for document in documents]

    def _count_rows(self) -> int:
        if self.ready:
            return len(self.ready)
        if not self.packing:
            return len(self.lines)
        return max((len(self.stream) - 1) // (self.length - 2), min(len(self.stream), 1))

    def _span(self, index: int, room: int) -> tuple[int, int]:
        begin = index * room if self.packing else int(self.starts[index])
        last = len(self.stream) if self.packing else int(self.starts[index + 1])
        return begin, min(begin + room + 1, last)

    def _cut(self, index: int, room: int) -> bool:
        return not self.packing and int(self.starts[index + 1] - self.starts[index]) > room + 1
