"""Finds token ids and labels below 0 or beyond the vocabulary, before a kernel gets them. No MindSpore."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindformers_glm.errors import DataError
from mindformers_glm.labels import IGNORED


def require_token_range(input_ids: Any, labels: Any, vocabulary: int, *, rows: Any = None) -> None:
    """Raises DataError if an id in `input_ids` (B, T), or a label other than -100, is not from 0 to `vocabulary` - 1.

    The error names the first such position; `rows` (B,) are the lines of the data file.
    """
    ids = np.asarray(input_ids)
    if ids.size and (ids.min() < 0 or ids.max() >= vocabulary):
        _refuse("token id", ids, (ids < 0) | (ids >= vocabulary), vocabulary, rows)
    if labels is None:
        return
    targets = np.asarray(labels)
    if targets.size and (targets.max() >= vocabulary or targets.min() < 0):
        bad = ((targets < 0) & (targets != IGNORED)) | (targets >= vocabulary)
        if bad.any():
            _refuse("label", targets, bad, vocabulary, rows)


def _refuse(what: str, values: np.ndarray, bad: np.ndarray, vocabulary: int, rows: Any) -> None:
    first = np.unravel_index(int(np.argmax(bad)), bad.shape)
    value, also = int(values[first]), f", or {IGNORED} for what is not learned" if what == "label" else ""
    place = f"position {int(first[-1])}"
    if len(first) > 1:
        row = int(first[0])
        place = f"line {int(rows[row])} of the data, {place}" if rows is not None else f"row {row}, {place}"
    fault = f"the {what} {value} is not one of 0 to {vocabulary - 1}{also}"
    raise DataError(place, fault, "Make the data with the tokenizer of this network")
