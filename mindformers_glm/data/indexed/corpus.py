"""Samples of one part of a corpus, or of several corpora by weight. Shapes: T tokens of a sample.

Indices are cached beside the corpus (or in `cache_dir`): rank 0 builds them, the others wait for the files and map
them; nodes without a common disk build their own (`shared_storage: False`, Megatron's --no-shared-storage).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.data.indexed import blend
from mindformers_glm.data.indexed.pair import IndexedPair
from mindformers_glm.data.indexed.samples import PARTS, SampleIndex, build_index, split_ranges
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import atomic_write
from mindformers_glm.log import logger

_NO_PAD = -1  # stands for a missing token where a last sample is filled up
_PATIENCE_SECONDS = 3600.0


class Sample(NamedTuple):
    """One row of pretraining data, all (T,). `first_visible[i]` is the first position that position i may look at."""

    tokens: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray  # 1 where the label is learned
    position_ids: np.ndarray
    first_visible: np.ndarray


class Marks(NamedTuple):
    """What the end of a document means inside a sample, as in Megatron (reset_position_ids and its neighbours)."""

    eod: int
    reset_position_ids: bool = False
    reset_attention_mask: bool = False
    eod_mask_loss: bool = False


class Cache(NamedTuple):
    """Where indices are kept. `builds` False waits for another process to build them."""

    folder: Path
    builds: bool = True
    patience_seconds: float = _PATIENCE_SECONDS


class CorpusPart:
    """The samples of train, valid or test of one pair, in the order in which they are trained."""

    def __init__(
        self,
        prefix: str | Path,
        *,
        split: str,
        part: str,
        seq_length: int,
        seed: int,
        num_samples: int | None = None,
        keep_last: bool = False,
        extra_token: bool = True,
        cache: Cache | None = None,
    ) -> None:
        self.pair, self.seq_length, self.extra = IndexedPair(prefix), seq_length, int(extra_token)
        run = split_ranges(split, len(self.pair))[PARTS.index(part)]
        if run is None or run[0] == run[1]:
            fix = f"The split gives {part} none of {len(self.pair)} sequences of {self.pair.prefix}: change the shares."
            raise ConfigError("split", split, fix)
        settings: dict[str, Any] = {
            "seq_length": seq_length,
            "seed": seed,
            "num_samples": num_samples,
            "keep_last": keep_last,
            "extra_token": extra_token,
        }
        if cache is None:
            self.index = build_index(self.pair.lengths, *run, **settings)
        else:
            self.index = _cached(cache, self.pair, run, settings)

    def __len__(self) -> int:
        return len(self.index)

    def text(self, number: int) -> np.ndarray:
        """The ids (T + 1,) of a sample, -1 where a last one is not full."""
        return self._joined(int(self.index.shuffle[number]))

    def sample(self, number: int, marks: Marks) -> Sample:
        """A sample as it is trained."""
        return as_sample(self.text(number), marks, extra_token=bool(self.extra))

    def _joined(self, number: int) -> np.ndarray:
        (first, offset), (last, end) = self.index.samples[number].tolist(), self.index.samples[number + 1].tolist()
        order, get = self.index.documents, self.pair.get
        if first == last:
            parts = [get(int(order[first]), offset, end - offset + self.extra)]
        else:
            parts = [get(int(order[first]), offset)]
            parts += [get(int(order[place])) for place in range(first + 1, last)]
            parts.append(get(int(order[last]), 0, end + self.extra))
        row = np.concatenate(parts).astype(np.int64)
        missing = self.seq_length + self.extra - len(row)
        return np.concatenate((row, np.full(missing, _NO_PAD))) if missing > 0 else row


class Blended:
    """Samples of several parts in one order. With `weights` None, in the proportion of their sizes."""

    def __init__(self, parts: Sequence[CorpusPart], *, weights: Sequence[float] | None, size: int | None) -> None:
        self.parts = list(parts)
        if weights is None and size is None:
            self.order = blend.exhausted([len(part) for part in parts])
        else:
            used = [len(part) for part in parts] if weights is None else weights
            total = size if weights is None else sum(blend.shares(used, size or 0))
            self.order = blend.blend(used, int(total or 0))
        for index, part in enumerate(self.parts):
            most = int(self.order.sample[self.order.corpus == index].max(initial=-1)) + 1
            if most > len(part):
                fault = f"the blend asks for {most} samples, it gives {len(part)}"
                raise DataError(part.pair.prefix, fault, "Lower its weight, or num_samples")

    def __len__(self) -> int:
        return len(self.order)

    def sample(self, number: int, marks: Marks) -> Sample:
        """A sample as it is trained."""
        part = self.parts[int(self.order.corpus[number])]
        return part.sample(int(self.order.sample[number]), marks)


def corpus(
    paths: Sequence[str | float],
    *,
    split: str,
    part: str,
    seq_length: int,
    seed: int,
    num_samples: int | None = None,
    keep_last: bool = False,
    cache: Cache | None = None,
) -> CorpusPart | Blended:
    """The samples that `[PREFIX]`, `[PREFIX, PREFIX]` or `[WEIGHT, PREFIX, WEIGHT, PREFIX]` name.

    Raises:
        ConfigError: weights and prefixes do not alternate, or a part is empty.
        DataError: a pair is missing or damaged.
    """
    weights, prefixes = weighted(paths)
    settings: dict[str, Any] = {
        "split": split,
        "part": part,
        "seq_length": seq_length,
        "seed": seed,
        "keep_last": keep_last,
    }
    if len(prefixes) == 1:
        return CorpusPart(prefixes[0], num_samples=num_samples, cache=cache, **settings)
    asked: list[int | None] = [None] * len(prefixes)
    if weights is not None:
        if num_samples is None:
            fix = "Weights need the number of samples to draw: give num_samples, or leave the weights out."
            raise ConfigError("num_samples", None, fix)
        asked = [blend.with_surplus(share) for share in blend.shares(weights, num_samples)]
    parts = [
        CorpusPart(prefix, num_samples=count, cache=cache, **settings)
        for prefix, count in zip(prefixes, asked, strict=True)
    ]
    return Blended(parts, weights=weights, size=num_samples)


def weighted(paths: Sequence[str | float]) -> tuple[list[float] | None, list[str]]:
    """Weights (None where there are none) and prefixes of Megatron's --data-path.

    Raises:
        ConfigError: nothing is named, a weight has no prefix, or is no positive number.
    """
    words = list(paths)
    if not words:
        raise ConfigError("data_path", paths, "Name the prefix of a .bin/.idx pair.")
    numbers = [_number(word) for word in words]
    if all(number is None for number in numbers):
        return None, [str(word) for word in words]
    weights, prefixes = numbers[0::2], words[1::2]
    alternates = len(weights) == len(prefixes) and all(number is None for number in numbers[1::2])
    if not alternates or any(weight is None or not 0 < weight < float("inf") for weight in weights):
        raise ConfigError("data_path", paths, "Write WEIGHT PREFIX WEIGHT PREFIX ..., weights above 0.")
    return [float(weight) for weight in weights if weight is not None], [str(prefix) for prefix in prefixes]


def as_sample(text: np.ndarray, marks: Marks, *, extra_token: bool = True) -> Sample:
    """Tokens, labels and masks of the ids (T + 1,) of a sample.

    Source: Megatron-core, GPTDataset.__getitem__ and _get_ltor_masks_and_position_ids.
    """
    if extra_token:
        tokens, labels = text[:-1].copy(), text[1:].copy()
    else:
        tokens, labels = text.copy(), np.append(text[1:], _NO_PAD)
    loss_mask = np.ones(len(tokens), np.uint8)
    ends = np.flatnonzero(tokens == marks.eod)
    if marks.eod_mask_loss:
        loss_mask[ends] = 0
    loss_mask[labels == _NO_PAD] = 0
    tokens[tokens == _NO_PAD], labels[labels == _NO_PAD] = 0, 0
    places = np.arange(len(tokens))
    starts = np.zeros(len(tokens), np.int64)
    for end in ends:
        starts[end + 1 :] = end + 1
    position_ids = places - starts if marks.reset_position_ids else places
    first_visible = starts if marks.reset_attention_mask else np.zeros_like(starts)
    return Sample(tokens, labels, loss_mask, position_ids, first_visible)


def _number(word: str | float) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _cached(cache: Cache, pair: IndexedPair, run: tuple[int, int], settings: dict) -> SampleIndex:
    """The index from the cache, built first where it is missing and this process builds.

    Raises:
        DataError: another process was to build it and did not.
    """
    status = pair.idx_path.stat()
    identity = {"corpus": pair.idx_path.name, "bytes": status.st_size, "modified": status.st_mtime_ns}
    identity |= {"run": list(run), **settings}
    text = json.dumps(identity, sort_keys=True)
    stem = f"{pair.idx_path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    files = [cache.folder / f"{stem}-{name}.npy" for name in ("documents", "samples", "shuffle")]
    about = cache.folder / f"{stem}.json"
    if not about.is_file() and not cache.builds:
        _wait(about, cache.patience_seconds)
    if not about.is_file():
        index = build_index(pair.lengths, *run, **settings)
        for file, array in zip(files, index[:3], strict=True):
            with atomic_write(file) as out:
                np.save(out, array)
        facts = {**identity, "epochs": index.epochs, "tokens_per_epoch": index.tokens_per_epoch}
        with atomic_write(about, "w") as out:
            out.write(json.dumps(facts, indent=1))
        logger.info("Built the sample index of %s: %d samples, kept in %s", pair.prefix, len(index), cache.folder)
    facts = json.loads(about.read_text(encoding="utf-8"))
    try:
        documents, samples, shuffle = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    except (OSError, ValueError) as error:
        fix = f"Remove {about} and start again; it is built anew"
        raise DataError(str(cache.folder), f"the sample index {stem} is damaged ({error})", fix) from error
    return SampleIndex(documents, samples, shuffle, facts["epochs"], facts["tokens_per_epoch"])


def _wait(file: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not file.is_file():
        if time.monotonic() > end or os.getppid() == 1:
            fix = "Does every node see this folder? If not: shared_storage: False (--no-shared-storage)"
            raise DataError(str(file), "rank 0 has built no sample index there", fix)
        time.sleep(0.2)
