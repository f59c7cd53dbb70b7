"""JSON arrays in blocks: the elements and lines of the whole text, whatever the blocks; what breaks is told by line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mindformers_glm.data import json_rows
from mindformers_glm.data.json_rows import elements
from mindformers_glm.errors import DataError

VALUES = [
    12,
    -3.5e-7,
    "",
    '字 " \\ \u2028 \U0001f600',
    None,
    True,
    {"a": [1, {"b": "]"}], "c": "},{"},
    [],
    {"": 0},
    1e300,
]


def in_blocks(text: str, size: int, **more):
    blocks = iter([text[begin : begin + size] for begin in range(0, len(text), size)])
    return elements(Path("a.json"), next(blocks), 1, more=lambda: next(blocks, ""), **more)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_blocks_give_the_elements_of_the_whole(size, indent, ascii_only):
    random.seed(size)
    values = [random.choice(VALUES) for _ in range(40)]
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only) + "\n \n"
    found, whole = list(in_blocks(text, size)), list(elements(Path("a.json"), text, 1))
    assert [record.value for record in found] == values
    assert found == whole


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[1,\n{"a": 1}\n', "breaks off at line 3"),
        ('[1,\n"abc', "breaks at line 2"),
        ('[1,\n\n{"a" 5}, 6]', "breaks at line 3"),
        ("[1, 2] 3", "more after the JSON array"),
        ("[1, 2", "breaks off at line 1"),
        ("[1 2]", "breaks off at line 1"),
    ],
)
def test_what_breaks_is_told_by_its_line(size, text, said):
    with pytest.raises(DataError, match=said):
        list(in_blocks(text, size))


def test_an_error_inside_a_block_reads_nothing_more():
    """A broken element at the beginning of a corpus is told without reading the corpus to its end."""
    asked = []
    text = '[{"a" 5}, ' + "1, " * 100
    with pytest.raises(DataError, match="breaks at line 1"):
        list(elements(Path("a.json"), text, 1, more=lambda: asked.append(1) or "1, "))
    assert not asked


def test_an_element_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(json_rows, "LONGEST", 1000)
    with pytest.raises(DataError, match="breaks at line 1"):
        list(elements(Path("a.json"), '["', 1, more=lambda: "a" * 64))
