"""What a data file is before one trains on it: rows, lengths, what is cut or skipped and why, duplicates, a length."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.data.conversations import Conversation
from mindformers_glm.data.gather import sources
from mindformers_glm.data.recognised import AutoDataLoader, as_conversation, recognise
from mindformers_glm.data.record import Fault
from mindformers_glm.errors import DataError, GenerationError
from mindformers_glm.files import atomic_write
from mindformers_glm.labels import IGNORED
from mindformers_glm.tokenizers import Renderer
from mindformers_glm.tokenizers.glm import GLMTokenizer

_SHARE = 0.99  # of the rows that the suggested length holds whole
_MULTIPLE = 64
_SHOWN, _BAR, _BINS = 5, 40, 12
_PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Inspection:
    """`lengths` are tokens of each row as it would be trained, `learned` those that are learned; both (rows,).

    `faults` are rows that cannot be used; `cut` counts those that `length` tokens do not hold, `lost` those among these
    of which nothing is learned.
    """

    place: str
    form: str
    lengths: np.ndarray
    learned: np.ndarray
    faults: list[Fault]
    duplicates: int
    length: int
    suggested: int
    cut: int
    lost: int

    def __str__(self) -> str:
        rows, total = len(self.lengths), max(int(self.lengths.sum()), 1)
        lines = [
            f"{self.place}: {self.form}",
            f"rows            {rows} usable, {len(self.faults)} skipped",
            f"duplicates      {self.duplicates} rows say what an earlier one says",
            f"tokens          {int(self.lengths.sum())}, {int(self.learned.sum())} supervised "
            f"({100 * self.learned.sum() / total:.1f} %)",
            f"length          least {self.lengths.min()}, mean {self.lengths.mean():.0f}, most {self.lengths.max()}; "
            + ", ".join(f"{share} % within {_percentile(self.lengths, share)}" for share in _PERCENTILES),
            f"at {self.length:<12} {self.cut} rows are cut, {self.lost} of them lose all that is learned",
            f"suggested       seq_length {self.suggested} (holds {100 * _SHARE:.0f} % of the rows whole)",
            "",
            *_histogram(self.lengths),
        ]
        reasons = Counter(fault.reason for fault in self.faults)
        for reason, count in reasons.most_common(_SHOWN):
            where = ", ".join(str(fault.line) for fault in self.faults if fault.reason == reason)[:60]
            lines.append(f"skipped {count}: {reason} (line {where})")
        if len(reasons) > _SHOWN:
            lines.append(f"skipped {sum(count for _, count in reasons.most_common()[_SHOWN:])}: other reasons")
        return "\n".join(lines)


def inspect_data(path: str | Path, tokenizer: GLMTokenizer, *, length: int | None = None) -> Inspection:
    """What is in a file, a folder or a glob, as this tokenizer's model would be trained on it.

    `length` is the seq_length to judge by, the suggested one where it is None.

    Raises:
        DataError: no data, of no known form, or not a single usable row.
    """
    files = sources(path, "train")
    loader = AutoDataLoader(str(path), part="all", shuffle=False, max_bad_ratio=1.0)
    if loader.gives == "documents":
        rows, faults = _documents(loader.rows, tokenizer)
    else:
        rows, faults = _conversations([as_conversation(row) for row in loader.rows], tokenizer)
    faults = [*loader.faults, *faults]
    if not rows:
        fault = f"no row can be used: {'; '.join(map(str, faults[:_SHOWN]))}"
        raise DataError(str(path), fault, "Repair them, or choose another tokenizer")
    lengths = np.array([len(labels) for _, labels in rows])
    learned = np.array([sum(label != IGNORED for label in labels) for _, labels in rows])
    suggested = -(-_percentile(lengths, 100 * _SHARE) // _MULTIPLE) * _MULTIPLE
    length = length or suggested
    cut = [labels for _, labels in rows if len(labels) > length]
    lost = sum(all(label == IGNORED for label in labels[:length]) for labels in cut)
    said = [tuple(key) for key, _ in rows]
    forms = {recognise(source).name if not source.loader else "dataset_info.json" for source in files}
    return Inspection(
        place=str(path),
        form=", ".join(sorted(forms)),
        lengths=lengths,
        learned=learned,
        faults=faults,
        duplicates=len(said) - len(set(said)),
        length=length,
        suggested=suggested,
        cut=len(cut),
        lost=lost,
    )


def draw_lengths(found: Inspection, path: Path) -> Path:
    """Draws the lengths of the rows as a histogram; returns the picture's path.

    Raises:
        DataError: matplotlib is not installed.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        fix = "Install it: pip install 'mindformers_glm[plot]'"
        raise DataError(str(path), "a picture needs matplotlib", fix) from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.hist(found.lengths, bins=min(60, max(10, len(found.lengths) // 10)), color="tab:blue", alpha=0.8)
    axes.axvline(found.suggested, color="tab:orange", label=f"suggested {found.suggested}")
    axes.axvline(found.length, color="tab:red", linestyle="--", label=f"judged by {found.length}")
    axes.set_xlabel("tokens of a row")
    axes.set_ylabel("rows")
    axes.legend()
    with atomic_write(path) as file:
        canvas.print_png(file)
    return path


def _conversations(
    rows: Sequence[Conversation], tokenizer: GLMTokenizer
) -> tuple[list[tuple[Any, list[int]]], list[Fault]]:
    renderer, kept, faults = Renderer(tokenizer), [], []
    for row in rows:
        try:
            renderer.check(row.messages)
            ids, labels = renderer.example(row.messages)
        except GenerationError as error:
            faults.append(Fault(row.line, str(error)))
        else:
            kept.append((ids, labels))
    return kept, faults


def _documents(rows: Sequence[Any], tokenizer: GLMTokenizer) -> tuple[list[tuple[Any, list[int]]], list[Fault]]:
    texts = tokenizer.vocabulary.encode_many([row.text for row in rows])
    return [(ids, list(ids)) for ids in texts], []


def _percentile(lengths: np.ndarray, share: float) -> int:
    return int(np.percentile(lengths, share, method="higher"))


def _histogram(lengths: np.ndarray) -> list[str]:
    counts, edges = np.histogram(lengths, bins=min(_BINS, max(1, int(np.ptp(lengths)))))
    widest = max(counts.max(), 1)
    width = len(str(int(edges[-1])))
    return [
        f"{int(low):>{width}} to {int(high):>{width}} |{'█' * int(_BAR * count / widest):<{_BAR}}| {count}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
