"""Questions with four choices from the files that people have: CSV of C-Eval, CMMLU, MMLU, JSON lines, chatglm's jsonl.

A question is {"question", "choices", "answer" (0 to 3, None where the file has none), "id"}, or, from the processed
package of ChatGLM2's evaluation, {"inputs_pretokenized", "answer", "id"}.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError, DataError

LETTERS = "ABCD"
Question = dict[str, Any]


def subject_table(name: str) -> dict[str, dict[str, Any]]:
    """The subjects of a benchmark: title, groups, and how many questions each split has."""
    text = resources.files("mindformers_glm.evaluation.tasks").joinpath(f"subjects/{name}.json")
    return json.loads(text.read_text(encoding="utf-8"))


def wanted_subjects(known: Mapping[str, Any], asked: Sequence[str] | None, *, key: str = "--subjects") -> list[str]:
    """The subjects asked for, in the benchmark's order; a group's name stands for its subjects.

    Raises:
        ConfigError: one is unknown.
    """
    if not asked:
        return list(known)
    chosen: set[str] = set()
    for word in asked:
        flat = _flat(word)
        own = [name for name in known if _flat(name) == flat]
        own = own or [name for name, row in known.items() if flat in {_flat(group) for group in row["groups"]}]
        if not own:
            groups = sorted({group for row in known.values() for group in row["groups"]})
            raise ConfigError(key, word, f"No subject or group has this name. Groups: {', '.join(groups)}.")
        chosen.update(own)
    return [name for name in known if name in chosen]


def find_file(folder: Path, split: str, subject: str) -> Path | None:
    """The file of a subject in FOLDER/SPLIT, as each of the benchmarks names it."""
    names = [f"{subject}_{split}", subject]
    for place in (folder / split, folder / "data" / split, folder):
        for name in names:
            for ending in (".csv", ".jsonl", ".json"):
                if (place / f"{name}{ending}").is_file():
                    return place / f"{name}{ending}"
    return next(iter(sorted((folder / split).glob(f"*/{subject}.jsonl"))), None)


def questions(file: Path, *, needs_answer: bool = True) -> list[Question]:
    """The questions of a file, in order.

    Raises:
        DataError: the file cannot be read, or a row is no question with four choices; the line is named.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")  # line ends inside a cell stay as they are
    except UnicodeDecodeError as error:
        raise DataError(str(file), "it is not UTF-8", "Save it as UTF-8") from error
    except OSError as error:
        raise DataError(str(file), f"it cannot be read ({error.strerror})", "Give another --data_dir") from error
    rows = _csv(text) if file.suffix == ".csv" else _json(file, text)
    found = []
    for number, (line, row) in enumerate(rows):
        try:
            found.append(_question(row, number, needs_answer=needs_answer))
        except ValueError as error:
            fault = f"line {line} is no question with four choices ({error})"
            raise DataError(str(file), fault, "The columns are question, A, B, C, D, answer") from error
    if not found:
        raise DataError(str(file), "it holds no question", "Copy it again")
    return found


def _csv(text: str) -> list[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = [(reader.line_num, row) for row in reader if row]
    head = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if {"question", "a", "b", "c", "d"} <= set(head):
        return [(line, dict(zip(head, row, strict=False))) for line, row in rows[1:]]
    return rows


def _json(file: Path, text: str) -> list[tuple[int, Any]]:
    try:
        if text.lstrip().startswith("["):
            return list(enumerate(json.loads(text), 1))
        lines = enumerate(text.split("\n"), 1)
        return [(number, json.loads(line)) for number, line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(str(file), f"it is no JSON ({error})", "Write one object a line") from error


def _question(row: Any, number: int, *, needs_answer: bool) -> Question:
    if isinstance(row, list):  # MMLU: question, four choices, letter
        if len(row) not in (5, 6):
            raise ValueError(f"{len(row)} columns")
        row = dict(zip(("question", *"abcd", "answer"), row, strict=False))
    if not isinstance(row, Mapping):
        raise ValueError(type(row).__name__)
    given = {str(name).lower(): value for name, value in row.items()}
    answer = _answer(given.get("answer", given.get("label", given.get("target"))))
    if answer is None and needs_answer:
        raise ValueError("no answer A to D")
    told = {"answer": answer, "id": given.get("id", given.get("", number))}
    if "inputs_pretokenized" in given:
        return {"inputs_pretokenized": given["inputs_pretokenized"], **told}
    choices = given.get("choices") or [given.get(letter) for letter in "abcd"]
    texts = [given.get("question"), *choices]
    if len(texts) != 5 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"columns {', '.join(map(str, row))}")
    return {"question": texts[0], "choices": texts[1:], **told}


def _answer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(LETTERS):
        return value
    letter = str(value or "").strip().upper()
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else None


def _flat(name: str) -> str:
    return str(name).lower().replace(" ", "_").replace("-", "_")
