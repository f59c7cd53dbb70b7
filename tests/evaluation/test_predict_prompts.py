from __future__ import annotations

from functools import partial

import pytest

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.prediction import prompt_ids, read_inputs
from mindformers_glm.tokenizers import ChatGLM3Tokenizer

read_prompts = partial(read_inputs, unescape=True)


def test_a_word_is_a_prompt_with_its_line_breaks():
    assert read_prompts("[Round 1]\\n\\n问：你好\\n\\n答：") == ["[Round 1]\n\n问：你好\n\n答："]


def test_several_words_are_several_prompts():
    assert read_prompts(["北京", "a\\nb"]) == ["北京", "a\nb"]


def test_a_file_gives_its_lines_but_blank_ones(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("北京\n[Round 1]\\n\\n问：What is AI?\\n\\n答：\n\n  \nHello world\n", encoding="utf-8")
    assert read_prompts(str(path)) == ["北京", "[Round 1]\n\n问：What is AI?\n\n答：", "Hello world"]


def test_a_very_long_prompt_is_no_file_name():
    assert read_prompts("长" * 5000) == ["长" * 5000]


@pytest.mark.parametrize("nothing", ["", "  ", []])
def test_no_prompt(nothing):
    with pytest.raises(ConfigError, match="Give a text"):
        read_prompts(nothing)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="folder"):
        read_prompts(str(tmp_path))


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("\n \n")
    with pytest.raises(DataError, match="no line has text"):
        read_prompts(str(path))


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        *((name, True) for name in ("glm3_6b", "glm32k", "chatglm3-6b", "glm4_9b_chat", "GLM-Z1-9B-0414")),
        *((name, True) for name in ("glm_edge_1_5b", "codegeex4_9b", "glm4_32b_0414", "LongWriter-glm4-9b")),
        *((name, False) for name in ("glm2_6b", "codegeex2_6b", "common", None, "edge_detector", "chatglm2-6b")),
    ],
)
def test_models_with_roles_are_asked_by_messages(root, name, asks):
    tokenizer = ChatGLM3Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))
    ids = prompt_ids(tokenizer, ["你好"], model_name=name)[0]
    assert ids == (tokenizer.build_chat_ids("你好") if asks else tokenizer.encode("你好"))
