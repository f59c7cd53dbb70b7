"""Commands to paste: what can be done with what a demo has trained."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def program() -> str:
    """`mindformers-glm` beside the Python that runs, as it is typed in the checkout."""
    beside = Path(sys.executable).with_name("mindformers-glm")
    return shown(beside) if beside.is_file() else f"{shlex.quote(sys.executable)} -m mindformers_glm"


def shown(path: Path) -> str:
    """A path as it is typed in the checkout: relative to it where it lies inside."""
    return shlex.quote(near(path))


def near(path: Path) -> str:
    """The same as one word of a command, without the quotes of a shell."""
    whole = Path(os.path.abspath(path))
    return str(whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else whole)


def chat(model: Path, *, tools: Path | None = None) -> str:
    """Talks with what was trained, over the 512 tokens of a row of the demos."""
    words = f"{program()} chat --model {shown(model)} --seq_length 512"
    return words if tools is None else f"{words} --tools {shown(tools)}"


def serve(model: Path) -> str:
    """Puts it behind OpenAI's interface, with the page."""
    return f"{program()} serve --model {shown(model)} --seq_length 512"


def evaluation(model: str, data: Path, output: Path) -> list[str]:
    """The words after the program that ask a model for each advertisement, in its own form of conversations."""
    words = ["evaluate", "--model", model, "--tasks", "adgen", "--way", "chat", "--seq_length", "512"]
    return [*words, "--data_dir", near(data), "--output_dir", near(output)]


def evaluate(model: Path, data: Path) -> str:
    """The figures of the table once more, and a page with every text."""
    return f"{program()} {shlex.join(evaluation(near(model), data, model / 'evaluation'))}"
