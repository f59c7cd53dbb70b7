"""Thousands of wrong inputs of every kind: each is refused in one clear line or rightly accepted, and nothing is lost.

`make robustness` runs all of them, the ordinary tests a slice. `python tests/robustness/sweep.py YAML bomb` shows some.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bench  # noqa: E402
import sweep  # noqa: E402
from inputs import Input, drawn  # noqa: E402
from verdict import (  # noqa: E402  # noqa: E402
    ACCEPTED,
    BAD,
    CLEAR,
    HANG,
    LONGEST,
    LOST,
    REFUSED_RIGHT,
    TRACEBACK,
    UNCLEAR,
    WRONGLY,
    Done,
    fault_of,
    judge,
)

LEAST = 2000
OF_EACH = 9
REFUSAL = "error: a.json: it is empty. Download it again."


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return bench.build(tmp_path_factory.mktemp("bench"))


def expect_no_bad(results, *, least: int) -> None:
    told = sweep.counted(results)
    print(told)
    assert len(results) >= least
    assert not [result for result in results if result.verdict.word in BAD], told
    found = Counter(result.verdict.word for result in results)
    assert found[CLEAR] and found[ACCEPTED]


def test_a_slice_of_every_family(files):
    inputs = [given for family in sweep.FAMILIES for given in drawn(family.inputs(files), OF_EACH, family.FAMILY)]
    expect_no_bad(sweep.run(inputs, workers=1), least=60)


@pytest.mark.slow
def test_all(files):
    expect_no_bad(sweep.run(sweep.every_input(files), workers=os.cpu_count() or 1), least=LEAST)


def test_inputs_are_the_same_every_time_and_no_two_are_alike(files):
    first, second = ([(g.family, g.name, g.words, g.code) for g in sweep.every_input(files)] for _ in range(2))
    assert first == second and len(first) >= LEAST
    assert set(Counter(family for family, *_ in first)) == {family.FAMILY for family in sweep.FAMILIES}


@pytest.mark.parametrize(
    ("done", "expected", "word"),
    [
        (Done(2, "", REFUSAL), "refused", CLEAR),
        (Done(2, "", "a warning\n" + REFUSAL), "either", CLEAR),
        (Done(2, "", REFUSAL), "accepted", REFUSED_RIGHT),
        (Done(0, "done", ""), "either", ACCEPTED),
        (Done(0, "done", ""), "refused", WRONGLY),
        (Done(1, "", "Traceback (most recent call last):\nKeyError: 'a'"), "either", TRACEBACK),
        (Done(-11, "", ""), "either", TRACEBACK),
        (Done(None, "", ""), "either", HANG),
        (Done(2, "", REFUSAL, ("a.txt is gone or changed",)), "refused", LOST),
        (Done(2, "", "something is wrong"), "refused", UNCLEAR),
        (Done(1, "FAULT a.json: it differs. Download it again.", ""), "refused", CLEAR),
    ],
)
def test_what_a_result_counts_as(done, expected, word):
    assert judge(Input("f", "n", expected=expected, names=("a.json",)), done).word == word


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (REFUSAL, ""),
        ("error: run.yaml: 2 faults\n  a.json: got 1. Use 2.\n  b: got 3. Use 4.", ""),
        ("error: a.json: it is empty.", "does not say what to do"),
        ("error: it is empty. Download it again.", "names none of ('a.json',)"),
        ("error: a.json: " + "x" * LONGEST + ". Use 2.", f"longer than {LONGEST} characters"),
        (REFUSAL + "\nand more", "more than one line"),
        ("error: a.json: KeyError. Use 2.", "raw text (KeyError)"),
        ("error: a.json: 'utf-8' codec can't decode byte. Save it again.", "raw text (codec can't)"),
    ],
)
def test_the_rule_of_messages(said, fault):
    assert fault_of(said, ("a.json",)) == fault


def test_lost_and_half_made_files_are_seen():
    given = Input("f", "n", replaced=("ours/",))
    before = {"a": "1", "b": "2", "ours/c": "3"}
    assert sweep.lost_files(before, {"b": "9", "ours/c": "4"}, given, refused=False) == [
        "a is gone or changed",
        "b is gone or changed",
    ]
    assert sweep.lost_files(before, {**before, "x.ckpt": "5", "output/log": "6"}, given, refused=True) == [
        "x.ckpt was left"
    ]
    assert sweep.lost_files(before, {**before, "ours/c": "4"}, given, refused=True) == ["ours/c is gone or changed"]
