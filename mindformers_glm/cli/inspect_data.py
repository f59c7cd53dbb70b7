r"""Looks at a data file before one trains on it: rows, lengths, what is skipped and why, duplicates, a seq_length.

    mindformers-glm inspect-data train.jsonl --tokenizer glm3_6b --seq_length 1024
    mindformers-glm inspect-data folder_of_files --tokenizer path/to/chatglm3-6b --png lengths.png

Without a file, or with one of --config, --data, --line, it shows samples token by token, as preview_data.py does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import set_up_logging

_PREVIEWS = ("--config", "--data", "--line", "--index")
_SHIPPED = "glm2_tiny"


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = Parser(description=__doc__)
    p.add_argument("file", help="data file, folder or pattern")
    p.add_argument("--tokenizer", help="name of a model, or folder or file of a vocabulary")
    p.add_argument("--tokenizer_type", help="ChatGLM2Tokenizer or another class, where nothing tells it")
    p.add_argument("--seq_length", type=whole(4), help="length to judge by; the suggested one without it")
    p.add_argument("--png", help="also draw the lengths into this picture")
    return p


def main(argv: list[str] | None = None) -> None:
    """Prints what is in the file."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] in _PREVIEWS for word in words):
        from mindformers_glm.cli import preview_data  # noqa: PLC0415 - the other half of this command

        preview_data.main(words)
        return
    chosen = parser().parse_args(words)
    from mindformers_glm.auto import AutoTokenizer  # noqa: PLC0415 - imports MindSpore
    from mindformers_glm.data.inspection import draw_lengths, inspect_data  # noqa: PLC0415
    from mindformers_glm.registry import TOKENIZERS  # noqa: PLC0415

    set_up_logging(console=False)
    if chosen.tokenizer is None:
        print(f"Lengths are in tokens of {_SHIPPED}; name the vocabulary of your model with --tokenizer.")
    name = chosen.tokenizer or _SHIPPED
    if chosen.tokenizer_type:
        kind: Any = TOKENIZERS.get(chosen.tokenizer_type, "--tokenizer_type")
        tokenizer = kind.from_pretrained(name)
    else:
        tokenizer = AutoTokenizer.from_pretrained(name)
    picture = Path(chosen.png) if chosen.png else None
    if picture is not None and picture.exists() and not _is_picture(picture):
        raise ConfigError("--png", chosen.png, "This is no picture, and it would be replaced: name another file.")
    found = inspect_data(chosen.file, tokenizer, length=chosen.seq_length)
    print(found)
    if picture is not None:
        print(f"drawn: {draw_lengths(found, picture)}")


def _is_picture(path: Path) -> bool:
    """Whether a file is a PNG, or empty."""
    with path.open("rb") as file:
        return file.read(8) in (b"\x89PNG\r\n\x1a\n", b"")
