"""One sample under the microscope: every token with its piece, its label and whether it is learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.errors import DataError
from mindformers_glm.labels import IGNORED


def table(dataset: TokenDataset, index: int, tokenizer: Any, *, limit: int | None = None) -> str:
    """Rows `position id piece label piece weight` of sample `index`, padding left out, and a count below.

    `label` is the token to predict at that position; weight 1 means that the prediction is learned. In the eval
    phase, where labels are reference answers, prompt and reference follow one another.

    Raises:
        DataError: the dataset has no such sample.
    """
    if not 0 <= index < dataset.num_rows:
        fault = f"there is no sample {index}, the dataset has {dataset.num_rows}"
        raise DataError(dataset.place, fault, "Choose one from 0 on")
    example = dataset.example(index)
    title = f"sample {index}, {dataset.place}:{dataset.line(index)}"
    if not dataset.counts_labels:
        reference = _without_padding(example.labels, tokenizer.pad_token_id)
        parts = [title, "prompt", *_references(example.input_ids[: example.used], tokenizer, limit)]
        return "\n".join([*parts, "reference", *_references(reference, tokenizer, limit)])
    rows = list(_rows(example.input_ids[: example.used], example.labels[: example.used], tokenizer))
    learned = sum(label != IGNORED for label in example.labels)
    shown = rows[:limit]
    head = ("position", "id", "piece", "label", "piece", "weight")
    lines = _aligned([head, *shown])
    if len(rows) > len(shown):
        lines.append(f"... {len(rows) - len(shown)} more")
    cut = ", cut to fit" if example.cut else ""
    share = 100 * learned / max(example.used, 1)
    lines.append(
        f"{learned} of {example.used} tokens are supervised ({share:.1f} %), row length {_length(example)}{cut}"
    )
    return "\n".join([title, *lines])


def first_sample(dataset: TokenDataset, *, limit: int = 48) -> list[str]:
    """The first sample for the log: as text with what is learned in ⟦ ⟧, as ids, as labels; [] without a tokenizer."""
    tokenizer = getattr(dataset, "tokenizer", None)
    if tokenizer is None or not dataset.num_rows or not dataset.counts_labels:
        return []
    example = dataset.example(0)
    ids, labels = example.input_ids[: example.used], example.labels[: example.used]
    learned = sum(label != IGNORED for label in labels)
    more = " ..." if len(ids) > limit else ""
    return [
        f"first sample ({dataset.place}:{dataset.line(0)}), {learned} of {example.used} tokens are learned:",
        f"  text:   {_marked(ids, labels, tokenizer)}",
        f"  ids:    {' '.join(map(str, ids[:limit]))}{more}",
        f"  labels: {' '.join(map(str, labels[:limit]))}{more}",
    ]


def _marked(ids: list[int], labels: list[int], tokenizer: Any, *, limit: int = 400) -> str:
    """The text of a sample, each learned run in ⟦ ⟧; the token that ends a run belongs to it."""
    parts: list[tuple[bool, list[int]]] = []
    run: list[int] = []
    inside = False
    for token, is_learned in zip(ids, [False, *(label != IGNORED for label in labels)], strict=False):
        if is_learned != inside:
            parts.append((inside, run))
            run, inside = [], is_learned
        run.append(token)
    if labels and labels[-1] != IGNORED:
        run = [*run, labels[-1]]
    parts.append((inside, run))
    texts = [(marked, tokenizer.decode(tokens)) for marked, tokens in parts if tokens]
    text = "".join(f"⟦{said}⟧" if marked else said for marked, said in texts)
    text = printable(text)
    return text if len(text) <= limit else f"{text[:limit]} ..."


def sample_of_line(dataset: TokenDataset, line: int) -> int:
    """The index of the sample that came from a line of the file.

    Raises:
        DataError: no sample did; the line is blank, faulty or beyond the end.
    """
    for index in range(dataset.num_rows):
        if dataset.line(index) == line:
            return index
    raise DataError(
        f"{dataset.place}:{line}", "no sample comes from this line", "Choose a line that holds a usable record"
    )


def printable(piece: str) -> str:
    """A piece with line breaks and control characters made visible."""
    return repr(piece)[1:-1] if not piece.isprintable() else piece


def _rows(ids: list[int], labels: list[int], tokenizer: Any) -> Iterator[tuple[str, ...]]:
    for position, (token, label) in enumerate(zip(ids, labels, strict=True)):
        learned = label != IGNORED
        target = printable(tokenizer.convert_ids_to_tokens(label)) if learned else ""
        piece = printable(tokenizer.convert_ids_to_tokens(token))
        yield str(position), str(token), piece, str(label), target, "1" if learned else "0"


def _references(ids: list[int], tokenizer: Any, limit: int | None) -> list[str]:
    rows = [(str(n), str(token), printable(tokenizer.convert_ids_to_tokens(token))) for n, token in enumerate(ids)]
    return _aligned([("position", "id", "piece"), *rows[:limit]])


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    """Columns on a terminal: characters of East Asian scripts take two."""
    return sum(2 if ord(character) >= 0x2E80 else 1 for character in text)


def _length(example: Any) -> int:
    return len(example.input_ids)


def _without_padding(ids: list[int], pad: int) -> list[int]:
    end = len(ids)
    while end and ids[end - 1] == pad:
        end -= 1
    return ids[:end]
