"""Data loaders of pairs of token ids, for `train_dataset.data_loader` and `eval_dataset.data_loader`.

The order of samples is the corpus's own (a function of seed, split and number of samples), so `shuffle` does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.data.batch import Example
from mindformers_glm.data.indexed.corpus import Blended, Cache, CorpusPart, Marks, Sample, corpus, weighted
from mindformers_glm.data.indexed.instructions import Instructions, is_instruction_prefix
from mindformers_glm.data.indexed.pair import is_pair, paths_of
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import log_once, logger

_PARTS = {"train": "train", "eval": "valid"}
_UNUSED = ("shuffle", "datasets_type", "create_attention_mask", "num_dataset_builder_threads", "mmap_bin_files")


class _Rows(Sequence[Example]):
    """The samples of a corpus as examples, made when they are asked for."""

    def __init__(
        self, source: CorpusPart | Blended, marks: Marks, *, count: int | None, vocab_size: int | None, place: str
    ) -> None:
        self.source, self.marks, self.vocab_size, self.place = source, marks, vocab_size, place
        self._size = len(source) if count is None else min(count, len(source))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: Any) -> Any:
        sample = self.source.sample(number, self.marks)
        check_ids(sample.tokens, self.vocab_size, self.place, number)
        return as_example(sample, self.marks)


class _InstructionRows(Sequence[Example]):
    """Instruction rows as examples, filled up on the right: with causal attention that changes no loss."""

    def __init__(self, source: Instructions, *, vocab_size: int | None, place: str) -> None:
        self.source, self.vocab_size, self.place = source, vocab_size, place

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: Any) -> Any:
        row, width = self.source.row(number), self.source.seq_length
        check_ids(row.input_ids, self.vocab_size, self.place, number)
        missing = width - len(row.input_ids)
        ids, labels = row.input_ids.tolist() + [0] * missing, row.labels.tolist() + [IGNORED] * missing
        if row.first_visible is None:
            return Example(ids, labels, len(row.input_ids))
        used = int(np.flatnonzero(row.labels != IGNORED)[-1]) + 1  # after it, filling that is not learned
        return Example(ids, labels, used, first_visible=[*row.first_visible.tolist(), *[len(row.input_ids)] * missing])


class IndexedDataLoader:
    """A corpus of .bin/.idx pairs: `dataset_dir` is a prefix, or weights and prefixes in turn.

    Pairs that hold running text are cut into samples in Megatron's order; under a prefix with
    `_packed_input_ids_document` lie ModelLink's instruction rows. The phase picks the part of `split`: train, or valid.
    `num_samples` None is one epoch; a number takes the first of as many epochs as it needs. `config` takes the keys of
    MindFormers 2.x, `sizes` its three numbers of samples.
    """

    encoded = True
    shard = None
    shuffle = False

    def __init__(
        self,
        dataset_dir: str | list[str | float] | None = None,
        phase: str = "train",
        split: str = "969,30,1",
        seed: int = 1234,
        num_samples: int | None = None,
        reset_position_ids: bool = False,
        reset_attention_mask: bool = False,
        eod_mask_loss: bool = False,
        cache_dir: str | None = None,
        shared_storage: bool = True,
        sizes: list[int] | None = None,
        config: dict[str, Any] | None = None,
        shuffle: bool | None = None,
        datasets_type: str | None = None,
    ) -> None:
        given = dict(config or {})
        self.phase = phase
        paths = dataset_dir or given.pop("data_path", None)
        self.split = str(given.pop("split", split))
        self.seed = int(given.pop("random_seed", seed))
        self.seq_length = given.pop("seq_length", None)
        eod = given.pop("eod", given.pop("eod_id", None))
        self.marks = Marks(
            eod=2 if eod is None else int(eod),
            reset_position_ids=bool(given.pop("reset_position_ids", reset_position_ids)),
            reset_attention_mask=bool(given.pop("reset_attention_mask", reset_attention_mask)),
            eod_mask_loss=bool(given.pop("eod_mask_loss", eod_mask_loss)),
        )
        self._own_eod = eod is not None
        for name in _UNUSED:
            if given.pop(name, None):
                log_once(f"data_loader.config.{name} has no effect here")
        if given:
            fix = "Known: data_path, split, random_seed, seq_length, eod, reset_position_ids, reset_attention_mask, "
            raise ConfigError(
                f"data_loader.config.{next(iter(given))}", next(iter(given.values())), fix + "eod_mask_loss."
            )
        if phase not in _PARTS:
            raise ConfigError("data_loader.phase", phase, "Use train or eval.")
        self.part = _PARTS[phase]
        self.num_samples = num_samples if sizes is None else _size(sizes, self.part)
        self.paths = [_prefix(word) for word in _words(paths, phase)]
        self.path = Path(weighted(self.paths)[1][0])
        self._cache_dir, self._shared = cache_dir, shared_storage

    def rows_of(self, seq_length: int, tokenizer: Any = None) -> Sequence[Example]:
        """The samples as examples of `seq_length` tokens.

        Raises:
            ConfigError, DataError: a pair is missing, damaged or empty, or a setting cannot be honoured.
        """
        if self.seq_length not in (None, seq_length):
            fix = f"The dataset says seq_length {seq_length}: use one number."
            raise ConfigError("data_loader.config.seq_length", self.seq_length, fix)
        vocab_size = None if tokenizer is None else tokenizer.vocab_size
        settings: dict[str, Any] = {"split": self.split, "part": self.part, "seq_length": seq_length, "seed": self.seed}
        only = str(self.paths[0])
        if len(self.paths) == 1 and is_instruction_prefix(only) and not is_pair(only):
            source = Instructions(only, num_samples=self.num_samples, **settings)
            logger.info("%s: %d instruction rows for %s", self.path, len(source), self.part)
            return _InstructionRows(source, vocab_size=vocab_size, place=str(self.path))
        marks = self.marks
        if tokenizer is not None and not self._own_eod:
            marks = marks._replace(eod=int(tokenizer.eos_token_id))
        found = corpus(self.paths, num_samples=self.num_samples, cache=self._cache(), **settings)
        rows = _Rows(found, marks, count=self.num_samples, vocab_size=vocab_size, place=str(self.path))
        if not len(rows):
            fault = f"its part for {self.part} fills no row of {seq_length} tokens"
            raise DataError(str(self.path), fault, "Lower seq_length, change split, or give num_samples to repeat it")
        logger.info("%s: %d samples of %d tokens for %s", self.path, len(rows), seq_length, self.part)
        return rows

    def _cache(self) -> Cache | None:
        """Where the indices go: a folder beside the corpus that may be written, or nowhere."""
        folder = user_path(self._cache_dir) if self._cache_dir else self.path.parent / "cache"
        from mindformers_glm import runtime  # noqa: PLC0415 - brings MindSpore, which reading a corpus does not need

        builds = runtime.rank() == 0 or not self._shared
        if builds:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                log_once(f"{folder}: may not be written, the sample index is built at every start (cache_dir: FOLDER)")
                return None
        return Cache(folder, builds=builds)


def as_example(sample: Sample, marks: Marks) -> Example:
    """A pretraining sample with the labels that are not learned as -100.

    Positions are handed on only where documents see each other: rotary scores depend on differences of positions, so
    that inside one document it is the same whether they restart.
    """
    labels = np.where(sample.loss_mask > 0, sample.labels, IGNORED)
    example = Example(sample.tokens.tolist(), labels.tolist(), len(sample.tokens))
    if marks.reset_attention_mask:
        return example._replace(first_visible=sample.first_visible.tolist())
    return example._replace(position_ids=sample.position_ids.tolist()) if marks.reset_position_ids else example


def check_ids(ids: np.ndarray, vocab_size: int | None, place: str, number: int) -> None:
    """Passes when all ids are in the vocabulary.

    Raises:
        DataError: one is not; the sample is named.
    """
    low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        fault = f"the ids of sample {number} reach from {low} to {high}, beyond the tokenizer ({vocab_size} ids)"
        raise DataError(
            place, fault, "Make the pair with this tokenizer (preprocess_data), or name the one it was made with"
        )


def _words(paths: Any, phase: str) -> list[str | float]:
    if not paths:
        option = "--train_dataset_dir" if phase == "train" else "--eval_dataset_dir"
        raise ConfigError("data_loader.dataset_dir", paths, f"Name the prefix of a .bin/.idx pair: {option} PREFIX.")
    if isinstance(paths, str):
        whole = paths.strip()
        return [whole] if _exists(whole) else list(whole.replace(",", " ").split())
    return list(paths)


def _prefix(word: str | float) -> str | float:
    """A prefix without the endings that users copy with it; ModelLink's DATA_PATH names text pairs in full."""
    if isinstance(word, str) and not _exists(word) and is_pair(f"{word}_text_document"):
        return f"{word}_text_document"
    return str(paths_of(word)[0])[:-4] if isinstance(word, str) and word.endswith((".bin", ".idx")) else word


def _exists(prefix: str) -> bool:
    return is_pair(prefix) or is_instruction_prefix(prefix)


def _size(sizes: list[int], part: str) -> int | None:
    if len(sizes) != 3 or any(size < 0 for size in sizes):
        raise ConfigError("data_loader.sizes", sizes, "Give three numbers of samples: train, valid, test.")
    return sizes[("train", "valid").index(part)] or None
