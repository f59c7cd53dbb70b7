"""Two evaluations of the same questions: gains, losses, McNemar's test and a bootstrap interval."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.errors import DataError
from mindformers_glm.evaluation.report import page

_DRAWS = 10_000
_SEED = 0


class Compared(NamedTuple):
    """`gained` and `lost` are rows that only the second, or only the first run answers right.

    `difference` is second minus first in accuracy, with the interval that holds 95 % of bootstrap draws; `p` is the
    two-sided probability of so uneven a split of the changed rows by chance (exact McNemar).
    """

    rows: int
    first: float
    second: float
    gained: list[tuple[str, str, int]]
    lost: list[tuple[str, str, int]]
    difference: float
    interval: tuple[float, float]
    p: float


def compare(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], *, places: tuple[str, str]) -> Compared:
    """Compares the samples of two runs, row by row.

    Raises:
        DataError: they have no question in common, or none with a known answer.
    """
    rights = [_rights(samples) for samples in (first, second)]
    keys = [key for key in rights[0] if key in rights[1]]
    if not keys:
        raise DataError(places[1], f"it has no question of {places[0]}", "Compare two runs of the same task")
    one, two = (np.array([right[key] for key in keys]) for right in rights)
    gained = [key for key, a, b in zip(keys, one, two, strict=True) if b > a]
    lost = [key for key, a, b in zip(keys, one, two, strict=True) if a > b]
    changes = two - one
    draws = np.random.default_rng(_SEED).integers(0, len(keys), (min(_DRAWS, 2_000_000 // len(keys) + 200), len(keys)))
    means = changes[draws].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Compared(
        len(keys), float(one.mean()), float(two.mean()), gained, lost,
        float(changes.mean()), (float(low), float(high)), mcnemar(len(gained), len(lost)),
    )  # fmt: skip


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided probability that of gained + lost fair coins at most min(gained, lost) show one side."""
    total, few = gained + lost, min(gained, lost)
    if not total:
        return 1.0
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(few + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log - total * math.log(2)) for log in logs))


def as_text(compared: Compared) -> str:
    """The comparison in lines."""
    low, high = (100 * value for value in compared.interval)
    return "\n".join(
        [
            f"{compared.rows} questions: {100 * compared.first:.2f} % -> {100 * compared.second:.2f} %",
            f"difference {100 * compared.difference:+.2f} points, 95 % between {low:+.2f} and {high:+.2f}",
            f"{len(compared.gained)} gained, {len(compared.lost)} lost; McNemar p = {compared.p:.4g}",
        ]
    )


def as_page(compared: Compared, names: tuple[str, str]) -> str:
    """The comparison as one HTML page, gains and losses listed by subject."""
    parts = [
        f"<h1>{html.escape(names[0])} → {html.escape(names[1])}</h1>",
        f"<pre>{html.escape(as_text(compared))}</pre>",
    ]
    subjects = sorted({key[:2] for key in (*compared.gained, *compared.lost)})
    most = max(
        (sum(key[:2] == subject for key in keys) for keys in (compared.gained, compared.lost) for subject in subjects),
        default=1,
    )
    rows = []
    for subject in subjects:
        cells = []
        for kind, keys in (("", compared.gained), ("lost", compared.lost)):
            count = sum(key[:2] == subject for key in keys)
            bar = f'<div class="bar {kind}"><i style="width:{100 * count / max(most, 1):.0f}%"></i></div>'
            cells.append(f'<td class="n">{count}</td><td>{bar}</td>')
        rows.append(f"<tr><td>{html.escape(' / '.join(subject))}</td>{''.join(cells)}</tr>")
    head = "<tr><th>subject</th><th class=n>gained</th><th></th><th class=n>lost</th><th></th></tr>"
    parts.append(f"<table>{head}{''.join(rows)}</table>")
    for title, keys in (("Gained", compared.gained), ("Lost", compared.lost)):
        listed = ", ".join(f"{subject} {number}" for _, subject, number in keys)
        parts.append(f"<h2>{title}</h2><p>{html.escape(listed) or 'none'}</p>")
    return page(f"{names[0]} and {names[1]}", "\n".join(parts))


def _rights(samples: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], float]:
    return {
        (sample["task"], sample["subject"], sample["doc_id"]): float(sample["acc"])
        for sample in samples
        if sample.get("target") and "acc" in sample
    }
