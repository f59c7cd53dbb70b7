"""What published snippets write: their arguments are honoured, or named once in the log."""

import logging
import random

import numpy as np
import pytest

from mindformers_glm import log
from mindformers_glm.errors import ConfigError, DataError, UserError
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, Renderer

TALK = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "早"},
    {"role": "user", "content": "天气"},
]


@pytest.fixture(scope="module")
def folder(root):
    return root / "mindformers_glm/assets/glm2_tiny"


@pytest.fixture(scope="module")
def glm2(folder):
    return ChatGLM2Tokenizer(str(folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def glm3(folder):
    return ChatGLM3Tokenizer(str(folder / "tokenizer.model"))


@pytest.fixture
def said(caplog):
    log.forget_told()
    log.logger.propagate = True
    caplog.set_level(logging.INFO, "mindformers_glm")
    return caplog


def test_arguments_of_loading(folder, glm3, said):
    for _ in range(2):
        again = ChatGLM3Tokenizer.from_pretrained(
            folder, trust_remote_code=True, revision="v1.0", use_fast=False, cache_dir=None, token="x"
        )
    assert again.encode("你好") == glm3.encode("你好")
    assert sorted(record.message.split(":")[0] for record in said.records) == ["revision", "token", "trust_remote_code"]
    assert ChatGLM3Tokenizer.from_pretrained(folder.parent, subfolder="glm2_tiny").encode("a") == glm3.encode("a")
    with pytest.raises(DataError, match="leads out"):
        ChatGLM3Tokenizer.from_pretrained(folder, subfolder="../..")
    with pytest.raises(ConfigError, match=r"tokenizer.paddingside: got 'left'. .*'padding_side'"):
        ChatGLM3Tokenizer.from_pretrained(folder, paddingside="left")


def test_names_of_special_tokens_in_text(folder, glm3, tmp_path):
    told = ChatGLM3Tokenizer.from_pretrained(folder, encode_special_tokens=True)
    text = "[gMASK]sop<|user|>\n你好<|assistant|>"
    ids = told.encode(text, add_special_tokens=False)
    assert ids == [
        *told.get_prefix_tokens(),
        told.get_command("<|user|>"),
        *told.vocabulary.encode("\n你好"),
        told.get_command("<|assistant|>"),
    ]
    assert told.tokenize("a<|user|>")[-1] == "<|user|>"
    assert not set(glm3.encode(text, add_special_tokens=False)) & set(glm3.all_special_ids)
    assert told.build_chat_ids("<|user|>") == glm3.build_chat_ids("<|user|>")  # messages forge nothing
    told.save_pretrained(tmp_path)
    assert ChatGLM3Tokenizer.from_pretrained(tmp_path).encode(text) == told.encode(text)


def test_calls_of_transformers(glm2, glm3):
    assert glm2.encode_plus("你好") == glm2("你好")
    assert glm2.batch_encode_plus(["你好", "早"], padding=True) == glm2(["你好", "早"], padding=True)
    ids = glm3.build_chat_ids("你好")
    row = glm3.batch_encode_plus([ids], return_tensors="pt", is_split_into_words=True, add_special_tokens=False)
    assert row.to("cuda").input_ids.tolist() == [ids]
    assert glm2.encode("你好", return_tensors="np").tolist() == [glm2.encode("你好")]
    assert glm2.decode(glm2.encode("你好"), skip_special_tokens=True, clean_up_tokenization_spaces=False) == "你好"
    assert glm2.build_inputs_with_special_tokens([5], [6]) == [*glm2.get_prefix_tokens(), 5, 6, 2]
    assert (glm2.num_special_tokens_to_add(), glm2.num_special_tokens_to_add(pair=True)) == (2, 3)
    with pytest.raises(ConfigError, match=r"tokenizer.return_offsets_mapping: got True"):
        glm2("a", return_offsets_mapping=True)
    with pytest.raises(ConfigError, match=r"tokenizer.paddin: got True"):
        glm2("a", paddin=True)
    with pytest.raises(ConfigError, match="list of texts"):
        glm2.batch_encode_plus("a")


def test_chat_templates_are_the_renderer(glm2, glm3):
    for tokenizer in (glm2, glm3):
        prompt = Renderer(tokenizer).prompt(TALK)
        assert tokenizer.apply_chat_template(TALK, add_generation_prompt=True) == prompt
        text = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, tokenize=False)
        assert text == tokenizer.decode(prompt)
        closed = tokenizer.apply_chat_template(TALK, tokenize=False)
        assert text.startswith(closed)
        assert closed != text
        batch = tokenizer.apply_chat_template(
            [TALK, TALK[:1]], add_generation_prompt=True, padding=True, return_tensors="np", return_dict=True
        )
        assert batch.input_ids.shape == (2, len(prompt))
        assert batch.attention_mask.sum(1).tolist() == [len(prompt), len(Renderer(tokenizer).prompt(TALK[:1]))]
    assert glm3.apply_chat_template(TALK, add_generation_prompt=True)[-1] == glm3.get_command("<|assistant|>")
    tools = [{"name": "f"}]
    assert glm3.apply_chat_template(TALK, tools, add_generation_prompt=True) == Renderer(glm3).prompt(TALK, tools=tools)
    with pytest.raises(ConfigError, match="chat_template"):
        glm3.apply_chat_template(TALK, chat_template="{{ messages }}")


@pytest.mark.parametrize("value", [None, 5, 1.5, float("nan"), b"x", {"a": 1}, object(), [None], [5.5], ["a", 5]])
def test_what_is_no_text_is_named(glm3, value):
    for call in (glm3, glm3.encode, glm3.tokenize):
        with pytest.raises(ConfigError, match=r"text: got .*Expected text"):
            call(value)


@pytest.mark.parametrize("value", ["abc", b"x", None, 1.5, [1.5], ["a"], [[1], ["a"]], {"input_ids": [1]}, np.ones(2)])
def test_what_is_no_id_is_named(glm3, value):
    with pytest.raises(ConfigError, match=r"token_ids: got .*Expected ids"):
        glm3.decode(value)


def test_ids_come_in_every_form(glm3):
    row = glm3.encode("你好", add_special_tokens=False)
    for form in (
        row,
        tuple(row),
        np.array(row),
        np.array(row, np.int16),
        iter(row),
        (np.int64(index) for index in row),
    ):
        assert glm3.decode(form) == "你好"
    assert glm3.decode(np.int32(row[0])) == glm3.decode(row[0]) == glm3.decode(row[:1])
    assert glm3.decode([np.array(row), row]) == ["你好", "你好"]
    assert glm3.convert_ids_to_tokens(np.array(row)) == glm3.tokenize("你好")
    with pytest.raises(ConfigError, match="tokens: got 5"):
        glm3.convert_tokens_to_ids(5)


def test_damaged_vocabularies_are_refused_by_name(folder, tmp_path):
    whole, chance, refused = (folder / "tokenizer.model").read_bytes(), random.Random(3), 0
    path = tmp_path / "bad.model"
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 5, 50))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice((len(content), chance.randrange(1, len(content))))])
        try:
            tokenizer = ChatGLM3Tokenizer(str(path))
            tokenizer.decode([*tokenizer.encode("你好 a\n😀"), *range(0, 65024, 97)])
        except UserError as error:
            assert "bad.model" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 30


def test_settings_of_windows_editors_and_damaged_ones(folder, tmp_path):
    (tmp_path / "tokenizer.model").symlink_to(folder / "tokenizer.model")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text('{"padding_side": "left", "note": "我的"}', encoding="utf-8-sig")
    assert ChatGLM3Tokenizer.from_pretrained(tmp_path).padding_side == "left"
    for content in (b"[" * 100_000, b"\xff\xfe{", b"[]", b""):
        settings.write_bytes(content)
        with pytest.raises(DataError, match="tokenizer_config.json"):
            ChatGLM3Tokenizer.from_pretrained(tmp_path)
