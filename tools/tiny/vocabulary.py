"""Trains the sentencepiece model of a corpus: BPE with byte fallback, with the settings of ChatGLM's vocabulary.

python -m tools.tiny.vocabulary corpus.jsonl tokenizer.model
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from mindformers_glm.cli.options import Parser
from mindformers_glm.cli.report import report
from mindformers_glm.files import atomic_write
from mindformers_glm.tokenizers.messages import TOOLS_INTRODUCTION, read_messages
from tools.glm2_tiny.make_tokenizer import corpus_rows, trained
from tools.glm2_tiny.make_tokenizer import required_characters as earlier_characters
from tools.tiny.sample import FOLDER

SIZE = 4576  # with the ids of ChatGLM2 (5) or ChatGLM3 (9) after it, below padded_vocab_size 4608
_MOST_ALIKE = 50  # times that a line counts: a sentence that is often said as it is needs no piece of its own
_MOST_OF_TOOLS = 3000  # the same for the lines of tools' descriptions, of which prompts are long
_ENGLISH = 2  # times that a line in English counts: there is less of it, and its letters carry less


def texts(path: str | Path, limit: int) -> tuple[Counter[str], Counter[str]]:
    """How often lines stand in the messages, and in the tools, of the first `limit` lines of a corpus."""
    spoken, described = Counter[str](), Counter[str]()
    for row in corpus_rows(path, limit, maker="tools.tiny.corpus"):
        spoken.update([row["text"]] if "text" in row else [])
        for message in read_messages(row.get("messages", [])):
            spoken.update([*message.content.split("\n"), *filter(None, [message.metadata])])
        if "tools" in row:
            described.update([TOOLS_INTRODUCTION, *json.dumps(row["tools"], indent=4, ensure_ascii=False).split("\n")])
    return spoken, described


def required_characters() -> str:
    """Every character that must have an id of its own: those of glm2_tiny and those of words/*.yaml."""
    used = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml")))
    chosen = dict.fromkeys(earlier_characters() + used)
    return "".join(mark for mark in chosen if not mark.isspace())


def train(path: str | Path, *, limit: int = 30000, size: int = SIZE) -> bytes:
    """The bytes of a sentencepiece model trained on the corpus at `path`."""
    required = required_characters()
    spoken, described = texts(path, limit)
    lines: list[str] = []
    for line, count in spoken.items():
        lines += [line] * (min(count, _MOST_ALIKE) * (_ENGLISH if line.isascii() and " " in line.strip() else 1))
    for line, count in described.items():
        lines += [line] * min(count, _MOST_OF_TOOLS)
    return trained(lines, required, size, threads=1)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("model", help="the tokenizer.model to write")
    given = parser.parse_args(arguments)
    with atomic_write(given.model) as file:
        file.write(train(given.corpus))


if __name__ == "__main__":
    sys.exit(report(main))
