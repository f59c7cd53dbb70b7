"""A tokenizer on disk: tokenizer.model and tokenizer_config.json in one folder, each written whole."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mindformers_glm.errors import DataError, UserError
from mindformers_glm.files import parse_json, read_small

VOCABULARY, SETTINGS = "tokenizer.model", "tokenizer_config.json"


def save(folder: Path, vocab_file: Path, config: dict[str, Any] | None) -> tuple[str, ...]:
    """Writes the vocabulary and, when given, the settings; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / VOCABULARY]
    _write(written[0], vocab_file.read_bytes())
    if config is not None:
        written.append(folder / SETTINGS)
        _write(written[1], (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    return tuple(str(path) for path in written)


def load(path: Path) -> tuple[Path, dict[str, Any]]:
    """The vocabulary file and the settings beside it, of a folder or of the vocabulary file itself.

    Raises:
        DataError: the folder has no vocabulary, or its settings are not a JSON object.
    """
    path = path.expanduser()
    if not path.exists():
        fix = "Give a folder with tokenizer.model; names such as glm2_tiny are known to AutoTokenizer.from_pretrained"
        raise DataError(str(path), "there is no such folder or file", fix)
    folder, vocab_file = (path, path / VOCABULARY) if path.is_dir() else (path.parent, path)
    if not vocab_file.is_file():
        raise DataError(str(folder), f"the folder has no {VOCABULARY}", "Copy it from the original checkpoint")
    settings = folder / SETTINGS
    return vocab_file, read_settings(settings) if settings.is_file() else {}


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


def place(path: str | Path, subfolder: str = "") -> Path:
    """A folder of a model, or the folder in it that `subfolder` names.

    Raises:
        DataError: the subfolder leads out of the folder.
    """
    inner = Path(path).expanduser() / subfolder
    if subfolder and not inner.resolve().is_relative_to(Path(path).expanduser().resolve()):
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
