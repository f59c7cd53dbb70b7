"""Rows of text for calibration and for the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.errors import DataError
from mindformers_glm.files import user_path

_KEYS = ("inputs_pretokenized", "text")
_REPLY = "targets_pretokenized"


class Text(NamedTuple):
    """A row: what is seen, and the reply to it where the row has one, which alone counts in the gate."""

    text: str
    reply: str = ""


def read_texts(path: str | Path) -> list[Text]:
    """The rows of a .jsonl (inputs_pretokenized or text, and targets_pretokenized) or .txt file (a text a line).

    Raises:
        DataError: a line holds none, or the file cannot be read or is empty.
    """
    file = user_path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(file), "it cannot be read as text", "Name a .jsonl file in UTF-8") from error
    plain = file.suffix == ".txt"
    found = [
        Text(line) if plain else _text(f"{file}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise DataError(str(file), "it holds no row", 'Write {"inputs_pretokenized": ...} lines')
    return found


def _text(place: str, line: str) -> Text:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(place, "it is no JSON", "Write one object a line") from error
    texts = [row.get(key) for key in _KEYS] if isinstance(row, dict) else []
    text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    if text is None:
        raise DataError(place, "it has no text inputs_pretokenized", "Add it (or text), or remove the line")
    reply = row.get(_REPLY, "")
    reply = reply[0] if isinstance(reply, list) and reply else reply
    return Text(text, reply if isinstance(reply, str) else "")
