"""Faults of command lines are one line, and every number has its range."""

from __future__ import annotations

import argparse

import pytest

from mindformers_glm.cli import serve
from mindformers_glm.cli.options import Parser, number, whole


def parser() -> Parser:
    made = Parser(prog="tool", description="a tool")
    made.add_argument("--lines", type=whole(1, 1000))
    made.add_argument("--scale", type=number(above=True))
    return made


WRONG = [["--lines", text] for text in ("0", "-3", "1001", "9" * 5000, "1e3", "٣", "")]
WRONG += [["--scale", text] for text in ("0", "-1", "nan", "inf", "x")] + [["--lines"], ["--line", "3"]]


@pytest.mark.parametrize("words", WRONG, ids=lambda words: " ".join(words)[:20])
def test_a_fault_is_one_line_and_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and words[0] in error and len(error) < 300


def test_what_is_right_is_read():
    read = parser().parse_args(["--lines", "1000", "--scale", "1e-3"])
    assert (read.lines, read.scale) == (1000, 0.001)
    assert number(0, 1)("0") == 0.0 and number(-5, 5)("-5") == -5.0


def test_the_range_is_told():
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 8"):
        whole(1, 8)("9")
    with pytest.raises(argparse.ArgumentTypeError, match="at least 0 and at most 1"):
        number(0, 1)("1.5")


def test_a_former_name_is_taken_and_the_new_one_told(capsys):
    read = serve.parser().parse_args(["--max_rows", "4"])
    assert read.max_num_seqs == 4 and "max_rows" not in vars(read)
    assert capsys.readouterr().err == "--max_rows is called --max_num_seqs now.\n"
    assert "--max_rows" not in serve.parser().format_help() and serve.parser().parse_args([]).max_num_seqs == 16
