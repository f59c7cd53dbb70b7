"""Trains the sentencepiece model of glm2_tiny: BPE with byte fallback, with the settings of ChatGLM's vocabulary.

python -m tools.glm2_tiny.make_tokenizer corpus.jsonl mindformers_glm/assets/glm2_tiny/tokenizer.model
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from mindformers_glm.cli.options import Parser
from mindformers_glm.cli.report import report
from mindformers_glm.errors import DataError
from mindformers_glm.files import atomic_write
from tools.glm2_tiny.grammar import characters, table

VOCABULARY = 4064  # with the ids of ChatGLM2 (5) or ChatGLM3 (9) after it, below padded_vocab_size 4096
_ASCII = "".join(map(chr, range(33, 127)))
_MARKS = "，。！？、：；“”‘’（）《》「」…—·～￥％"


def corpus_rows(path: str | Path, limit: int, *, maker: str = "tools.glm2_tiny.make_corpus") -> Iterator[dict]:
    """The first `limit` lines of a corpus, which `maker` writes.

    Raises:
        DataError: a line is no JSON, or there is none.
    """
    number, fix = 0, f"Write the file with {maker}."
    with Path(path).open(encoding="utf-8") as file:
        for number, line in zip(range(1, limit + 1), file, strict=False):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}", f"it is no JSON ({error})", fix) from error
    if not number:
        raise DataError(str(path), "it is empty", fix)


def texts(path: str | Path, limit: int) -> Iterator[str]:
    """Questions (as the prompt writes them), answers and plain texts of the first `limit` lines of a corpus."""
    for row in corpus_rows(path, limit):
        yield from [row["text"]] if "text" in row else ()
        for number, (ask, answer) in enumerate(row.get("turns", ()), start=1):
            yield from (f"[Round {number}]", f"问：{ask}", "答：", answer)
            if answer.isascii():  # English is rare in the corpus and deserves words of its own
                yield answer


def required_characters() -> str:
    """Every character that must have an id of its own: ASCII, marks, common and used Chinese characters."""
    used = "".join(
        json.dumps(table(name), ensure_ascii=False)
        for name in ("words", "clothes", "goods", "chat", "requests", "english", "live")
    )
    chosen = dict.fromkeys(_ASCII + _MARKS + characters() + used)
    return "".join(mark for mark in chosen if not mark.isspace())


def train(path: str | Path, *, limit: int = 30000, vocabulary: int = VOCABULARY) -> bytes:
    """The bytes of a sentencepiece model trained on the corpus at `path`."""
    return trained(texts(path, limit), required_characters(), vocabulary)


def trained(texts: Iterable[str], required: str, vocabulary: int, *, threads: int = 2) -> bytes:
    """The bytes of a sentencepiece model of so many pieces, each `required` character among them."""
    lines, rng = list(texts), random.Random(0)
    lines += ["".join(rng.sample(required, 8)) for _ in range(2000)]  # each required character is met
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        required_chars=required,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        split_by_unicode_script=True,
        split_by_whitespace=True,
        split_by_number=True,
        allow_whitespace_only_pieces=True,
        max_sentencepiece_length=16,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=threads,
        minloglevel=2,
    )
    return model.getvalue()


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
