"""ChatGLM2 and ChatGLM3 tokenizers against the official ids, then their own promises."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.registry import PROCESSORS, TOKENIZERS
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, GLMProcessor, check_fits

NAMES = [
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<sop>",
    "<eop>",
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<eos>",
    "<bos>",
]
NAMES += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]


@pytest.fixture(scope="module")
def glm2(glm2_vocab):
    return ChatGLM2Tokenizer(glm2_vocab)


@pytest.fixture(scope="module")
def glm3(glm3_vocab):
    return ChatGLM3Tokenizer(glm3_vocab)


@pytest.fixture(scope="module")
def official(golden):
    return json.loads((golden / "tokenizer_hf.json").read_text())


@pytest.fixture(scope="module")
def expected(shared):
    return json.loads((shared / "data/expected_tokenizer_cases.json").read_text())


def test_text_cases_of_the_official_tokenizer(glm2, glm3, official):
    for case in official["glm2"]:
        for tokenizer in (glm2, glm3):
            assert tokenizer.encode(case["text"]) == case["ids"]
            assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids_no_special"]
            assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded"]
        assert glm2.decode(case["ids"]) == case["decoded"]


def test_chat_and_prompt_cases_of_the_official_tokenizer(glm2, glm3, official):
    for case in official["glm3_chat"]:
        assert glm3.build_chat_ids(None, case["messages"]) == case["ids"]
        *past, last = case["messages"]
        assert glm3.build_chat_input(last["content"], past, last["role"]).input_ids.tolist() == [case["ids"]]
    for case in official["glm2_prompt"]:
        assert glm2.build_prompt(case["query"], case["history"]) == case["prompt"]


def test_cases_of_chatglm_cpp(glm2, glm3, expected):
    assert {name: glm3.get_command(name) for name in expected["special_ids"]} == expected["special_ids"]
    for case in expected["chatglm2"]:
        assert glm2.encode(case["text"]) == case["input_ids"]
    for case in expected["chatglm3"]:
        ids = glm3.encode(case["text"]) if "text" in case else glm3.build_chat_ids(None, case["messages"])
        assert ids == case["input_ids"]


def test_sizes_and_marks(glm2, glm3):
    assert (glm2.vocab_size, glm3.vocab_size, len(glm3)) == (64794, 64798, 64798)
    assert (glm2.pad_token_id, glm2.unk_token_id, glm2.eos_token_id, glm2.bos_token_id) == (0, 0, 2, 64792)
    assert (glm2.mask_token_id, glm2.gmask_token_id) == (64789, 64790)
    assert glm2.stop_ids == (2,)
    assert glm3.stop_ids == (2, 64795, 64797)
    assert glm2.all_special_ids == [0, 1, 2, *range(64789, 64794)]


def test_call_gives_the_documented_encoding(glm2):
    assert glm2("你好") == {"input_ids": [64790, 64792, 36474, 54591], "attention_mask": [1, 1, 1, 1]}
    pair = glm2("你好", "你好")
    assert pair.input_ids == [64790, 64792, 36474, 54591, 36474, 54591, 2]
    batch = glm2(["你好", "晚上睡不着应该怎么办"], padding=True, return_tensors="ms")
    assert batch.input_ids.dtype == np.int32
    assert batch.input_ids.tolist() == [
        [64790, 64792, 36474, 54591, 0, 0, 0],
        [64790, 64792, 30910, 32820, 54266, 31876, 35153],
    ]
    assert batch.attention_mask.sum(1).tolist() == [4, 7]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_truncation_side(glm2_vocab, side):
    tokenizer = ChatGLM2Tokenizer(glm2_vocab, padding_side=side, truncation_side=side)
    text = tokenizer.encode("晚上睡不着应该怎么办", add_special_tokens=False)
    kept = text[:3] if side == "right" else text[-3:]
    assert tokenizer.encode("晚上睡不着应该怎么办", max_length=5) == [64790, 64792, *kept]
    padded = tokenizer("你好", padding="max_length", max_length=6)
    row = [64790, 64792, 36474, 54591]
    assert padded.input_ids == ([*row, 0, 0] if side == "right" else [0, 0, *row])
    assert padded.attention_mask == ([1, 1, 1, 1, 0, 0] if side == "right" else [0, 0, 1, 1, 1, 1])


def test_pairs_are_cut_by_strategy(glm2):
    whole = glm2.encode("一二三四五六七八", "甲乙", max_length=8)
    assert len(whole) == 8
    assert whole[-1] == 2
    only_second = glm2.encode("一二三", "甲乙丙丁戊己", max_length=9, truncation="only_second")
    assert only_second[: 2 + len(glm2.tokenize("一二三"))] == glm2.encode("一二三")
    assert len(glm2.encode("一二三", max_length=3, truncation=False)) > 3


def test_pad_joins_rows_and_labels(glm2):
    rows = [{"input_ids": [5, 6, 7], "labels": [6, 7, -100]}, {"input_ids": [5], "labels": [6]}]
    padded = glm2.pad(rows, return_tensors="np", pad_to_multiple_of=4)
    assert padded.input_ids.tolist() == [[5, 6, 7, 0], [5, 0, 0, 0]]
    assert padded.labels.tolist() == [[6, 7, -100, -100], [6, -100, -100, -100]]
    assert padded.attention_mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_batch_of_chats(glm3):
    histories = [[], [{"role": "user", "content": "早"}, {"role": "assistant", "content": "早上好"}]]
    batch = glm3.build_batch_input(["你好", "几点了"], histories)
    for row, (query, history) in zip(batch.input_ids, zip(["你好", "几点了"], histories, strict=True), strict=True):
        single = glm3.build_chat_ids(query, history)
        assert row[: len(single)].tolist() == single
        assert not row[len(single) :].any()
    assert glm3.build_chat_ids("几点了", [("早", "早上好")]) == glm3.build_chat_ids("几点了", histories[1])


def test_decode_takes_every_id(glm2, glm3):
    for index in [*range(0, 65024, 7), *range(64780, 65024), -1, -100, 2**31]:
        assert isinstance(glm2.decode([index]), str)
        assert isinstance(glm3.decode([index, 36474]), str)
    assert glm2.decode([64790, 64792, 36474, 65000, 54591, 2]) == "你好"
    assert glm3.decode(glm3.build_chat_ids("你好")) == "[gMASK]sop<|user|> \n 你好<|assistant|>"
    assert glm3.decode(glm3.build_chat_ids("你好"), skip_special_tokens=True) == "\n 你好"
    assert glm2.decode(np.array([[36474, 54591], [36474, 0]])) == ["你好", "你"]
    assert glm2.decode(36474) == "你"
    assert glm2.decode([]) == ""
    assert glm2.batch_decode([[36474, 54591], []]) == ["你好", ""]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), max_size=6))
def test_text_never_becomes_a_special_id(glm3, parts):
    ids = glm3.encode("".join(parts), add_special_tokens=False)
    assert not set(ids) & set(glm3.all_special_ids)
    assert all(index < glm3.vocabulary.text_size for index in ids)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_text_comes_back(glm2, text):
    encodable = text.encode("utf-8", "replace").decode()
    assert glm2.decode(glm2.encode(text)) == encodable.replace("\u2581", " ") or encodable.startswith(" ")


def test_save_and_load(glm2_vocab, tmp_path):
    first = ChatGLM2Tokenizer(glm2_vocab, padding_side="left", pad_token="<blank>")
    paths = first.save_pretrained(tmp_path / "a" / "b")
    assert sorted(path.rsplit("/")[-1] for path in paths) == ["tokenizer.model", "tokenizer_config.json"]
    again = ChatGLM2Tokenizer.from_pretrained(tmp_path / "a" / "b")
    assert again.settings() == first.settings()
    assert again.encode("你好") == first.encode("你好")
    assert again.get_command("<blank>") == 0
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2


def test_official_folders_load(shared):
    for name, kind in (("chatglm2-6b", ChatGLM2Tokenizer), ("chatglm3-6b-32k", ChatGLM3Tokenizer)):
        tokenizer = kind.from_pretrained(shared / "data/tokenizer" / name)
        assert tokenizer.encode("你好") == [64790, 64792, 36474, 54591]


def test_broken_vocabulary_files(tmp_path):
    for name, content, words in (
        ("missing.model", None, "no such tokenizer file"),
        ("empty.model", b"", "empty"),
        ("page.model", b"<html>not found</html>", "not a sentencepiece model"),
        ("pointer.model", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not a sentencepiece model"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            ChatGLM2Tokenizer(str(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="vocab_file"):
        ChatGLM2Tokenizer()
    with pytest.raises(DataError, match="no such folder"):
        ChatGLM2Tokenizer.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "tokenizer_config.json").write_text("{")
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(DataError, match="not valid JSON"):
        ChatGLM2Tokenizer.from_pretrained(tmp_path)


def test_wrong_options_name_themselves(glm2, glm3, glm2_vocab):
    for call, words in (
        (lambda: glm2("a", padding="longer"), "padding"),
        (lambda: glm2("a", padding="max_length"), "max_length"),
        (lambda: glm2(["a", "b c d"], return_tensors="np"), "padding"),
        (lambda: glm2("a", return_tensors="tf"), "return_tensors"),
        (lambda: glm2.encode("abc", max_length=1), "max_length"),
        (lambda: glm2.encode("abc abc", max_length=3, truncation="shortest"), "truncation"),
        (lambda: glm2.get_command("<|user|>"), "special token"),
        (lambda: glm3.build_single_message("tool", "", "x"), "role"),
        (lambda: ChatGLM2Tokenizer(glm2_vocab, padding_side="top"), "padding_side"),
        (lambda: ChatGLM2Tokenizer(glm2_vocab, special_start=5), "special_start"),
        (lambda: glm3.build_batch_input(["a"], [[], []]), "histories"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()


def test_special_ids_follow_the_vocabulary(glm2_vocab):
    shifted = ChatGLM2Tokenizer(glm2_vocab, special_start=65000)
    assert shifted.get_command("[MASK]") == 65000
    assert shifted.decode([64990, 65001, 36474]) == "你"
    check_fits(shifted, 65024)
    with pytest.raises(ConfigError, match="65005 ids"):
        check_fits(shifted, 65000)


def test_registry_builds_tokenizer_and_processor(glm2_vocab):
    spec = {"type": "ChatGLM2Tokenizer", "vocab_file": glm2_vocab, "bos_token": "<sop>", "eos_token": "<eop>"}
    spec |= {
        "end_token": "</s>",
        "mask_token": "[MASK]",
        "gmask_token": "[gMASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    assert TOKENIZERS.check(spec, "processor.tokenizer") == []
    assert TOKENIZERS.check({"type": "ChatGLM3Tokenizer", "bos_tokens": "x"}, "processor.tokenizer")
    processor = PROCESSORS.build({"type": "GLMProcessor", "return_tensors": "ms", "tokenizer": spec}, "processor")
    assert isinstance(processor, GLMProcessor)
    with pytest.raises(ConfigError, match="processor.tokenizer"):
        GLMProcessor()("x")
    assert processor("你好").input_ids.tolist() == [[64790, 64792, 36474, 54591]]
