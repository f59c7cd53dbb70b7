"""What `--predict_data` and `input_data` mean: prompts as text, a list of prompts, or a file with one in each line."""

from __future__ import annotations

import os
from pathlib import Path

from mindformers_glm.errors import ConfigError, DataError


def read_prompts(input_data: str | list[str]) -> list[str]:
    r"""The prompts, each with its literal `\n` turned into line breaks.

    One word that names a file gives the lines of the file that are not blank. MindFormers ran blank lines as
    prompts, and left `\n` in lists as it was.

    Raises:
        ConfigError: there is no prompt, or the word names a folder.
        DataError: the file is empty or not UTF-8.
    """
    if isinstance(input_data, list):
        prompts = [_unescaped(text) for text in input_data]
    elif os.path.isdir(input_data):
        raise ConfigError("input_data", input_data, "This is a folder; give prompts, or a text file with one per line.")
    elif os.path.isfile(input_data):
        return _lines(Path(input_data))
    else:
        prompts = [_unescaped(input_data)]
    if not any(prompt.strip() for prompt in prompts):
        raise ConfigError("input_data", input_data, "Give at least one prompt: --predict_data 'TEXT'.")
    return prompts


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(str(path), "the file is not UTF-8 text", "Convert it: iconv -t utf-8.") from error
    prompts = [_unescaped(line) for line in lines if line.strip()]
    if not prompts:
        raise DataError(str(path), "the file has no line with text", "Write one prompt in each line.")
    return prompts


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n")
