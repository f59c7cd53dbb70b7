"""A tokenizer on disk: its vocabulary and tokenizer_config.json in one folder, each written whole.

The vocabulary is tokenizer.model (sentencepiece, or tiktoken's ranks) or tokenizer.json (byte-level BPE).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal

from mindformers_glm.config.vocabulary import FILES, of_model, shipped
from mindformers_glm.errors import DataError, UserError, listed
from mindformers_glm.files import parse_json, read_small, user_path

VOCABULARY, JSON_VOCABULARY = VOCABULARIES = FILES
SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{2,}={0,2}")
Kind = Literal["sentencepiece", "ranks", "json"]


def save(folder: Path, vocab_file: Path, config: dict[str, Any] | None) -> tuple[str, ...]:
    """Writes the vocabulary and, when given, the settings; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / vocabulary_name(vocab_file)]
    _write(written[0], vocab_file.read_bytes())
    if config is not None:
        written.append(folder / SETTINGS)
        _write(written[1], (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    return tuple(str(path) for path in written)


def found(path: str | Path) -> Path:
    """A path that a user wrote, or, where nothing lies there, the vocabulary of the model that has this name here."""
    there = user_path(path)
    named = None if os.path.exists(there) else of_model(str(path))
    return there if named is None else Path(named)


def load(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The vocabulary file and the settings beside it, of a folder, of the vocabulary file itself, or of a model's name.

    Raises:
        DataError: the folder has no vocabulary, or its settings are not a JSON object.
    """
    path = found(path)
    if not path.exists():
        fix = f"Give a folder with tokenizer.model, or the name of a model whose tokenizer is here: {listed(shipped())}"
        raise DataError(str(path), "there is no such folder or file", fix)
    folder, vocab_file = (path, vocabulary_in(path)) if path.is_dir() else (path.parent, path)
    if vocab_file is None:
        names = " or ".join(VOCABULARIES)
        raise DataError(str(folder), f"the folder has no {names}", "Copy it from the original checkpoint")
    if not vocab_file.is_file():
        raise DataError(str(vocab_file), "it is no regular file (a pipe or a device)", "Give a vocabulary file")
    settings = folder / SETTINGS
    return vocab_file, read_settings(settings) if settings.is_file() else {}


def vocabulary_in(folder: Path) -> Path | None:
    """The vocabulary file of a folder, None where it has none."""
    return next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)


def kind(path: Path) -> Kind:
    """What a vocabulary file is, by its first bytes; anything else is left to sentencepiece to refuse."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return "sentencepiece"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return "json"
    word, space, number = head.split(b"\n", 1)[0].strip().partition(b" ")
    is_ranks = bool(space) and number.isdigit() and bool(_BASE64.fullmatch(word))
    return "ranks" if is_ranks else "sentencepiece"


def vocabulary_name(path: Path) -> str:
    """What a vocabulary file is called in a folder of a model."""
    return JSON_VOCABULARY if kind(path) == "json" else VOCABULARY


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object of a settings file; a byte order mark, as Windows editors write it, is no part of it.

    Raises:
        DataError: unreadable, no JSON, nested without end, or no object.
    """
    try:
        config = parse_json(read_small(path))
    except UserError as error:
        raise DataError(str(path), "cannot be read", f"Repair it, or delete it ({error})") from error
    except ValueError as error:
        raise DataError(str(path), f"not valid JSON ({error})", "Delete or repair the file") from error
    if not isinstance(config, dict):
        raise DataError(str(path), "expected a JSON object", "Delete or repair the file")
    return config


def text(path: Path) -> str:
    """What a text file says; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def place(path: str | Path, subfolder: str = "") -> Path:
    """A folder of a model, or the folder in it that `subfolder` names.

    Raises:
        DataError: the subfolder leads out of the folder.
    """
    inner = user_path(path) / subfolder
    if subfolder and not inner.resolve().is_relative_to(user_path(path).resolve()):
        raise DataError(str(inner), "subfolder leads out of the folder", "Give the path of the tokenizer itself")
    return inner


def _write(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
