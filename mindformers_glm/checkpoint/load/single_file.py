"""A file that is a whole model (GGUF, chatglm.cpp): its configuration, and its tokenizer as a folder.

Tokenizers are read from folders, so the one inside is put into a folder named after its content, in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.checkpoint.load.folders import whole_models_in
from mindformers_glm.checkpoint.load.source import is_whole_model, open_file
from mindformers_glm.errors import UserError
from mindformers_glm.files import atomic_write
from mindformers_glm.log import log_once, logger
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.recognise import tokenizer_from
from mindformers_glm.tokenizers.chatglm import check_fits
from mindformers_glm.tokenizers.files import SETTINGS

_CACHE = "mindformers_glm"


def whole_model(path: Path) -> TensorFile | None:
    """The table of a file that is a whole model, or of the one such file that a folder has; None for others."""
    if path.is_dir():
        found = whole_models_in(path)
        return open_file(found[0]) if found else None
    return open_file(path) if path.is_file() and is_whole_model(path) else None


def network_of(file: TensorFile) -> Any:
    """The configuration that the file states.

    Raises:
        ConfigError: a network that is not here.
    """
    return FAMILIES.read_config(dict(file.network or {}), file.path)


def tokenizer_of(file: TensorFile, config: Any) -> Path | None:
    """A folder with the tokenizer of the file; None where it has none that is the network's."""
    if file.vocabulary is None:
        return None
    contents = file.vocabulary()
    kind = FAMILIES.of_config(file.network or {}).tokenizer
    contents.setdefault(SETTINGS, json.dumps({"tokenizer_class": kind}).encode())
    digest = hashlib.sha256(b"".join(name.encode() + content for name, content in sorted(contents.items()))).hexdigest()
    try:
        folder = _written(_cache() / digest[:32], contents)
    except OSError:  # a home that may not be written
        folder = _written(Path(tempfile.mkdtemp(prefix=f"{_CACHE}-")), contents)
    try:
        check_fits(tokenizer_from(folder), config.padded_vocab_size)
    except UserError as error:
        logger.warning("%s: the tokenizer inside it is not used (%s)", file.path, error)
        return None
    log_once(f"{file.path}: the tokenizer inside it is used")
    return folder


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / _CACHE / "tokenizers"


def _written(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        there = folder / name
        if not there.is_file() or there.read_bytes() != content:
            with atomic_write(there) as file:
                file.write(content)
    return folder
