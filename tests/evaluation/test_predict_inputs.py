"""What may be given to predict."""

from __future__ import annotations

import pytest

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.predict import read_inputs


def test_text_list_and_file(tmp_path):
    assert read_inputs("a\\nb") == ["a\\nb"]
    assert read_inputs("a\\nb", unescape=True) == ["a\nb"]
    assert read_inputs(["a", "b\\n"], unescape=True) == ["a", "b\n"]
    file = tmp_path / "in.txt"
    file.write_text("北京\n[Round 1]\\n\\n问：What is AI?\\n\\n答：\n\nHello world\n", encoding="utf-8")
    expected = ["北京", "[Round 1]\n\n问：What is AI?\n\n答：", "Hello world"]
    assert read_inputs(str(file)) == read_inputs(file) == expected


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([], ConfigError, "Give a text, several texts, or a file"),
        ([1], ConfigError, "A prompt is text"),
        ("nowhere.txt", DataError, "there is no such file"),
    ],
)
def test_faults(inputs, error, message):
    with pytest.raises(error, match=message):
        read_inputs(inputs)


def test_faults_of_files(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="no line has text"):
        read_inputs(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_inputs(tmp_path / "bytes.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_inputs(tmp_path)


def test_a_long_or_strange_text_is_a_prompt():
    for text in ("x" * 5000, "nul \0", "see notes.txt"):
        assert read_inputs(text) == [text]


def test_only_line_feeds_end_a_prompt(tmp_path):
    file = tmp_path / "in.txt"
    file.write_bytes("第一\u2028句\r\n第二\x0b\x85\x1c句\n".encode())
    assert read_inputs(file) == ["第一\u2028句", "第二\x0b\x85\x1c句"]
