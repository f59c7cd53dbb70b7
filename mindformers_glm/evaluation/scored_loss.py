"""The loss of labelled rows as in training, from the log-probabilities of an engine: no MindSpore is needed."""

from __future__ import annotations

import numpy as np

from mindformers_glm.data.batch import Batch
from mindformers_glm.generation.engine import Engine
from mindformers_glm.labels import IGNORED


def can_score(batch: Batch) -> bool:
    """Whether a row is one text, and each of its labels the token that follows: packed rows are several."""
    if batch.first_visible is not None or batch.position_ids is not None:
        return False
    counts = batch.labels[:, :-1] != IGNORED
    counts &= np.logical_or.accumulate(batch.labels[:, :0:-1] != IGNORED, axis=1)[:, ::-1]  # the last may follow none
    return bool((batch.labels[:, :-1][counts] == batch.input_ids[:, 1:][counts]).all())


def scored_loss(engine: Engine, batch: Batch) -> float:
    """The mean over a batch's labels that count of -log p; 0 where none counts. The batch is one that `can_score`."""
    total, count = 0.0, 0
    for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
        places = np.flatnonzero(labels != IGNORED)
        if not places.size:
            continue
        first, last = places[0], places[-1]
        rest = [*ids[first + 1 : last + 1].tolist(), int(labels[last])]
        found = engine.score(ids[: first + 1].tolist(), [rest])[0].logprobs
        total -= float(found[places - first].sum(dtype=np.float64))
        count += places.size
    return total / count if count else 0.0
