"""What may be given to predict."""

from __future__ import annotations

import pytest

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.prediction import prompt_ids, read_inputs
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer


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


def test_several_files_are_all_read_and_a_mixture_is_refused(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("你好\n", encoding="utf-8")
    two.write_text("天气\n\nb\n", encoding="utf-8")
    assert read_inputs([str(one), str(two)], unescape=True) == ["你好", "天气", "b"]
    assert read_inputs([one, two]) == ["你好", "天气", "b"]
    with pytest.raises(ConfigError, match="one.txt' is a file and others are texts"):
        read_inputs([str(one), "你好"], unescape=True)
    with pytest.raises(DataError, match="no such file"):
        read_inputs([str(one), str(tmp_path / "none.txt")], unescape=True)


def test_a_mapping_is_no_prompt():
    with pytest.raises(ConfigError, match="Give a text"):
        read_inputs({"text": "a"})


def test_prompts_in_the_chat_form(glm2_vocab, glm3_vocab, caplog):
    third, second = ChatGLM3Tokenizer(glm3_vocab), ChatGLM2Tokenizer(glm2_vocab)
    for name in ("glm32k", "glm3_6b", "chatglm3-6b"):
        assert prompt_ids(third, ["你好"], model_name=name) == [third.build_chat_ids("你好")]
    for name in (None, "common", "glm2_6b"):
        assert prompt_ids(third, ["你好"], model_name=name) == [third.encode("你好")]
    with pytest.raises(ConfigError, match="Its chat form has roles"):
        prompt_ids(second, ["你好"], model_name="glm3_6b")
    with caplog.at_level("INFO"):
        assert prompt_ids(third, ["<|user|>\n你好"]) == [third.encode("<|user|>\n你好")]
    assert "is plain text to the model" in caplog.text
