"""A small model from an empty folder: corpus, vocabulary, training, measures. The same command goes on where it ended.

python -m tools.tiny.recipe output/glm3_tiny --family glm3

`work` then holds corpus.jsonl, tokenizer.model, rows.npy, state.ckpt, stable.ckpt, loss.csv, curve.png, model/ and
figures.json. It begins with random weights that can copy (seed.py); with --grow, with those of
the packaged glm2_tiny, made wider and deeper (grow.py).
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.cli.report import report
from mindformers_glm.files import atomic_write, write_text
from mindformers_glm.train.curve import draw_curve
from tools.tiny import corpus, measure, train, vocabulary
from tools.tiny.families import FAMILIES

LINES = 240_000


def prepare(work: Path, family: str, lines: int, seed: int) -> None:
    """Writes corpus.jsonl and tokenizer.model where they are not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    text, words = work / "corpus.jsonl", work / "tokenizer.model"
    if not text.exists():
        corpus.write(text, lines, seed, family)
    if not words.exists():
        kept = FAMILIES[family].vocabulary
        content = vocabulary.train(text) if kept is None else kept.read_bytes()
        with atomic_write(words) as file:
            file.write(content)


def draw(work: Path) -> Path | None:
    """The curve of loss.csv as curve.png."""
    with (work / "loss.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file)]
    records = [
        {"step": int(step), "loss": float(loss), "grad_norm": float(norm), "learning_rate": float(rate)}
        for step, loss, norm, rate, _ in rows
    ]
    return draw_curve(records, work / "curve.png")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    train.options(parser)
    parser.add_argument("--lines", type=whole(), default=LINES, help="of the corpus")
    parser.add_argument("--count", type=whole(), default=500, help="prompts of each skill to measure")
    given = parser.parse_args(arguments)
    work = Path(given.work)
    prepare(work, given.family, given.lines, given.seed)
    done = train.run(given).done
    draw(work)
    if done < given.steps:
        print(f"step {done} of {given.steps}: the same command goes on")
        return
    found = measure.measured(str(work / "model"), given.count, list(corpus.MEASURED))
    write_text(work / "figures.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(report(main))
