"""Which tokens make which sample: Megatron's order of documents and samples, and its splits, as pure functions.

A part of a corpus (train, valid, test) is a run of sequences. Its documents are repeated for as many epochs as the
samples asked for need, shuffled, laid end to end and cut into samples of `seq_length` + 1 ids that overlap by one.
Source: Megatron-core, core/datasets/gpt_dataset.py and helpers.cpp (the rules; the arithmetic here is vectorised).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from mindformers_glm.errors import ConfigError

PARTS = ("train", "valid", "test")
_LAST_EPOCH_SHARE = 0.80  # a last epoch that gives less than this share of an epoch's samples is shuffled apart


class SampleIndex(NamedTuple):
    """Where the samples of a part lie.

    `documents` (N,) are sequence numbers in reading order, over all epochs; `samples` (M + 1, 2) the place in
    `documents` and the offset there where each sample starts; `shuffle` (M,) the order in which samples are taken.
    """

    documents: np.ndarray
    samples: np.ndarray
    shuffle: np.ndarray
    epochs: int
    tokens_per_epoch: int

    def __len__(self) -> int:
        return len(self.shuffle)


def split_ranges(split: str, count: int) -> list[tuple[int, int] | None]:
    """The run of sequences of train, valid and test that a string such as "969,30,1" gives; None for a share of 0.

    Raises:
        ConfigError: the string names no share, more than three, or only zeros.
    """
    shares = [float(word) for word in re.findall(r"[.0-9]+", split) if word.strip(".")]
    if not shares or len(shares) > len(PARTS) or sum(shares) <= 0:
        raise ConfigError("split", split, 'Give the shares of train, valid and test, for example "969,30,1".')
    shares += [0.0] * (len(PARTS) - len(shares))
    total = float(np.sum(shares))
    borders = [0.0]
    for share in shares:
        borders.append(borders[-1] + share / total)
    found: list[tuple[int, int] | None] = []
    for begin, end in zip(borders[:-1], borders[1:], strict=True):
        found.append(None if end <= begin else (round(begin * float(count)), round(end * float(count))))
    return found


def build_index(
    lengths: np.ndarray,
    begin: int,
    end: int,
    *,
    seq_length: int,
    seed: int,
    num_samples: int | None = None,
    keep_last: bool = False,
    extra_token: bool = True,
) -> SampleIndex:
    """The samples of sequences `begin` up to `end`, at least `num_samples` of them (one epoch when None).

    `keep_last` keeps a last sample that is not full (Megatron: drop_last_partial_validation_sequence False);
    `extra_token` False makes samples that do not overlap (add_extra_token_to_sequence False).

    Raises:
        ConfigError: the part holds no token.
    """
    own = np.asarray(lengths[begin:end])
    per_epoch, extra = int(own.sum(dtype=np.int64)), int(extra_token)
    if per_epoch == 0:
        raise ConfigError("data_loader.split", f"sequences {begin} to {end}", "This part of the corpus is empty.")
    epochs = 1
    if num_samples is not None:
        epochs = max(1, -(-(num_samples * seq_length + extra) // per_epoch))
    apart = False
    if epochs > 1 and num_samples is not None:
        before_last = ((epochs - 1) * per_epoch - extra) // seq_length
        apart = num_samples - before_last < int(_LAST_EPOCH_SHARE * ((per_epoch - extra) // seq_length))
    random = np.random.RandomState(seed)
    documents = _document_order(begin, end, epochs, random, apart=apart)
    samples = _sample_starts(own[documents - begin], epochs * per_epoch, seq_length, extra, keep_last=keep_last)
    total = len(samples) - 1
    first = before_last if apart else total
    shuffle = _shuffled(first, total, random)
    return SampleIndex(documents, samples, shuffle, epochs, per_epoch)


def _document_order(begin: int, end: int, epochs: int, random: np.random.RandomState, *, apart: bool) -> np.ndarray:
    if apart:
        most = _document_order(begin, end, epochs - 1, random, apart=False)
        return np.concatenate((most, _document_order(begin, end, 1, random, apart=False)))
    order = np.tile(np.arange(begin, end, dtype=np.int32), epochs)
    random.shuffle(order)
    return order


def _sample_starts(sizes: np.ndarray, total: int, seq_length: int, extra: int, *, keep_last: bool) -> np.ndarray:
    """(M + 1, 2): a sample ends with the token before `extra` of the next one's, in the first document to hold it."""
    ends = np.cumsum(sizes, dtype=np.int64)
    whole = (total - extra) // seq_length
    count = -(-(total - extra) // seq_length) if keep_last else whole
    last_tokens = np.arange(1, whole + 1, dtype=np.int64) * seq_length + extra - 1
    place = np.searchsorted(ends, last_tokens, side="right")
    offset = last_tokens - (ends[place] - sizes[place]) + 1 - extra
    starts = np.zeros((count + 1, 2), np.int64)
    starts[1 : whole + 1, 0], starts[1 : whole + 1, 1] = place, offset
    if count > whole:
        starts[-1] = len(sizes) - 1, sizes[-1] - extra
    return starts.astype(np.int32) if starts.max(initial=0) <= np.iinfo(np.int32).max else starts


def _shuffled(first: int, total: int, random: np.random.RandomState) -> np.ndarray:
    """The first `first` samples in one random order, those after them in another."""
    dtype = np.uint32 if total < np.iinfo(np.uint32).max - 1 else np.int64
    one = np.arange(first, dtype=dtype)
    random.shuffle(one)
    if first == total:
        return one
    two = np.arange(first, total, dtype=dtype)
    random.shuffle(two)
    return np.concatenate((one, two))
