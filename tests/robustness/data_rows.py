"""Data: strange rows among good ones, in every form, and files that are no data."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench as good
from inputs import ODD_VALUES, PAGE, STAND_INS, Input, generator, spoilt_bytes, spoilt_values

FAMILY = "data rows"
_FORMS = {
    "adgen": (good.ADGEN, 36),
    "turns": (good.TURNS, 36),
    "sharegpt": (good.SHAREGPT, 30),
    "alpaca": (good.ALPACA, 36),
    "texts": (good.TEXTS, 16),
    "tools": (good.TOOLS, 36),
}
_PREVIEW = (
    "preview-data",
    "--data",
    "{}",
    "--tokenizer",
    "tokenizer",
    "--max_source_length",
    "31",
    "--max_target_length",
    "32",
)
_PREPROCESS = ("preprocess", "--input", "{}", "--tokenizer-name-or-path", "tokenizer", "--output-prefix", "out")
_LINES = (
    "{",
    "null",
    "7",
    "[]",
    '""',
    "not json",
    "{}",
    '{"a": NaN}',
    '{"content": "a"',
    "[" * 100_000,
    "\0",
    '{"content": "\ud800"}',
    "\ufffe",
    " " * 100_000,
)


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    for form, (rows, count) in _FORMS.items():
        yield from _rows(bench, form, rows, count)
    yield from _between(bench)
    yield from _files(bench)
    yield from _tables(bench)
    yield from _pairs(bench)


def _given(bench: Path, title: str, words: tuple[str, ...], name: str, content: Any, expected: str = "either") -> Input:
    files = {name: content, "tokenizer": bench / "tokenizer"}
    return Input(
        FAMILY,
        title,
        tuple(word.replace("{}", name) for word in words),
        files=files,
        expected=expected,
        names=(Path(name).name, "--input", "dataset_dir"),
    )


def _rows(bench: Path, form: str, rows: list, count: int) -> Iterator[Input]:
    for number, (key, spoilt) in enumerate(spoilt_values(rows[0], generator(f"rows {form}"), count)):
        content = good.lines([rows[0], spoilt, *rows[1:]]) if number % 3 else good.lines([spoilt])
        words = (
            ("inspect-data", "{}"),
            _PREPROCESS if form in ("texts", "alpaca") else ("inspect-data", "{}"),
            _PREVIEW,
        )[number % 3]
        if words is _PREVIEW and form != "adgen":
            words = ("inspect-data", "{}")
        yield _given(bench, f"{words[0]} {form} {number} {key}", words, f"{form}.jsonl", content)
    for number, value in enumerate(ODD_VALUES):
        if number % 4 == 0:
            content = good.lines([rows[0], value, *rows[1:]])
            yield _given(bench, f"{form} whole row {number}", ("inspect-data", "{}"), f"{form}.jsonl", content)


def _between(bench: Path) -> Iterator[Input]:
    """Lines that are no rows, between rows."""
    for number, line in enumerate(_LINES):
        content = (good.lines(good.ADGEN[:4]) + line + "\n" + good.lines(good.ADGEN[4:])).encode(
            "utf-8", "surrogatepass"
        )
        for words in (("inspect-data", "{}"), _PREVIEW):
            yield _given(bench, f"{words[0]} line {number}", words, "adgen.jsonl", content)
        yield _given(
            bench, f"only line {number}", ("inspect-data", "{}"), "adgen.jsonl", line.encode("utf-8", "surrogatepass")
        )
        yield _given(
            bench,
            f"preprocess line {number}",
            _PREPROCESS,
            "texts.jsonl",
            (good.lines(good.TEXTS) + line + "\n").encode("utf-8", "surrogatepass"),
        )


def _files(bench: Path) -> Iterator[Input]:
    text = good.lines(good.ADGEN)
    for name, what in STAND_INS.items():
        for words in (("inspect-data", "{}"), _PREVIEW, _PREPROCESS):
            expected = "either" if name in ("text", "noise") and words is _PREPROCESS else "refused"
            yield _given(bench, f"{words[0]} {name}", words, "data.jsonl", what, expected)
    whole = {
        "UTF-16": text.encode("utf-16"),
        "UTF-32": text.encode("utf-32"),
        "GBK": text.encode("gbk"),
        "BOM": ("\ufeff" + text).encode(),
        "gzip cut": gzip.compress(text.encode(), mtime=0)[:-20],
        "gzip of zeros": gzip.compress(bytes(200_000_000), 9, mtime=0),
        "gzip of noise": gzip.compress(random.Random(3).randbytes(1000), mtime=0),
        "one line": json.dumps(good.ADGEN),
        "no end": text[:-3],
        "page after": text + PAGE,
        "long line": json.dumps({"content": "x" * 5_000_000, "summary": "y"}),
        "CR": text.replace("\n", "\r"),
        "separators": text.replace("图案", "\u2028图案"),
        "concatenated": text.replace("\n", ""),
        "pretty": json.dumps(good.ADGEN, indent=1),
    }
    for name, content in whole.items():
        for words in (("inspect-data", "{}"), _PREVIEW):
            yield _given(bench, f"{words[0]} {name}", words, "data.jsonl", content)
    for suffix in (
        "json",
        "csv",
        "tsv",
        "txt",
        "parquet",
        "arrow",
        "tar.gz",
        "zip",
        "xlsx",
        "mindrecord",
        "json.gz",
        "jsonl.zst",
        "bin",
        "idx",
        "",
    ):
        for name, content in (("noise", random.Random(5).randbytes(800)), ("rows", text), ("empty", b"")):
            words = (("inspect-data", "{}"), _PREPROCESS)[len(suffix) % 2]
            yield _given(bench, f"{words[0]} {name} .{suffix}", words, f"data.{suffix}".rstrip("."), content)
    chance = generator("data bytes")
    for number, (title, damaged) in enumerate(spoilt_bytes(text.encode(), chance, 30)):
        yield _given(bench, f"bytes {title}", (("inspect-data", "{}"), _PREVIEW)[number % 2], "adgen.jsonl", damaged)


def _tables(bench: Path) -> Iterator[Input]:
    chance = generator("tables")
    for name in ("adgen.csv", "plain.txt"):
        for title, damaged in spoilt_bytes((bench / name).read_bytes(), chance, 12):
            yield _given(bench, f"{name} {title}", ("inspect-data", "{}"), name, damaged)
    for number, content in enumerate(
        (
            "content,summary\n",
            "content\na\n",
            ",,,\n",
            'a,"b\nc\n',
            "content,content\na,b\n",
            "summary,content\n" + "x," * 500,
            '"' * 9999,
        )
    ):
        yield _given(bench, f"csv {number}", ("inspect-data", "{}"), "adgen.csv", content)


def _pairs(bench: Path) -> Iterator[Input]:
    """.bin/.idx pairs that never were."""
    chance = generator("pairs")
    head = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x04" + (2).to_bytes(8, "little") + (3).to_bytes(8, "little")
    index = (
        head
        + b"".join(n.to_bytes(4, "little") for n in (3, 5))
        + b"".join(n.to_bytes(8, "little") for n in (0, 12, 0, 1, 2))
    )
    for number, (title, damaged) in enumerate(spoilt_bytes(index, chance, 36)):
        files = {"p.idx": damaged, "p.bin": bytes(32)}
        words = (
            ("preprocess", "--verify", "p"),
            ("preprocess", "--merge", "p", "p", "--output-prefix", "q"),
            ("preprocess", "--split", "p", "2", "--output-prefix", "q"),
        )
        yield Input(
            FAMILY, f"pair {title}", words[number % 3], files=files, expected="either", names=("p.idx", "p.bin", "p")
        )
    for parts in ("0", "-1", "abc", "", "9" * 20, "3"):
        words = ("preprocess", "--split", "p", parts, "--output-prefix", "q")
        yield Input(
            FAMILY, f"split {parts[:9]!r}", words, files={"p.idx": index, "p.bin": bytes(32)}, names=("--split", "p")
        )
