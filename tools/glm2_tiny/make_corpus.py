"""Writes the training text of glm2_tiny, or ADGEN files of one style, from the grammar. The seed decides everything.

python -m tools.glm2_tiny.make_corpus corpus corpus.jsonl --lines 120000
python -m tools.glm2_tiny.make_corpus live train.json --lines 1500 --seed 1
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.cli.report import report
from mindformers_glm.files import atomic_write
from tools.glm2_tiny.advert import live_summary, random_content, random_summary, write_content
from tools.glm2_tiny.talk import sample

MOST_LINES = 10_000_000
_STYLES = {"adgen": random_summary, "live": live_summary}


def corpus(lines: int, seed: int) -> Iterator[dict]:
    """The mixture that the base model is trained on; nothing of it is in the held-back style."""
    rng = random.Random(seed)
    for _ in range(lines):
        yield sample(rng)


def adgen(style: str, lines: int, seed: int, *, least: int = 3, most: int = 5) -> Iterator[dict]:
    """ADGEN lines {"content", "summary"} in one style, each product once."""
    rng = random.Random(f"{style} {seed}")
    seen: set[str] = set()
    while len(seen) < lines:
        pairs = random_content(rng, least=least, most=most, brands=0.1)
        content = write_content(pairs)
        if content not in seen:
            seen.add(content)
            yield {"content": content, "summary": _STYLES[style](rng, pairs)}


def write_lines(path: str | Path, rows: Iterator[dict]) -> None:
    """A JSON-lines file that appears whole or not at all."""
    with atomic_write(path, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("style", choices=["corpus", *_STYLES])
    parser.add_argument("path", help="the JSON-lines file to write")
    parser.add_argument("--lines", type=whole(1, MOST_LINES), required=True)
    parser.add_argument("--seed", type=whole(0), default=0)
    given = parser.parse_args(arguments)
    rows = corpus(given.lines, given.seed) if given.style == "corpus" else adgen(given.style, given.lines, given.seed)
    write_lines(given.path, rows)
    print(f"{given.path}: {given.lines} lines")


if __name__ == "__main__":
    sys.exit(report(main))
