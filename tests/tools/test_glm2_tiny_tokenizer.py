"""The vocabulary of glm2_tiny: ChatGLM's settings, room for the special ids, no common character in pieces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
ASSETS = ROOT / "mindformers_glm/assets/glm2_tiny"

from mindformers_glm.errors import DataError  # noqa: E402
from mindformers_glm.tokenizers.chatglm import ChatGLM2Tokenizer, ChatGLM3Tokenizer  # noqa: E402
from tools.glm2_tiny import make_corpus, make_tokenizer  # noqa: E402
from tools.glm2_tiny.grammar import characters  # noqa: E402
from tools.tiny import vocabulary  # noqa: E402


@pytest.fixture(scope="module")
def pieces():
    return SentencePieceProcessor(str(ASSETS / "tokenizer.model"))


def spec(path):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(Path(path).read_bytes())
    return model.trainer_spec, model.normalizer_spec


def test_settings_are_those_of_chatglm(glm2_vocab):
    ours, ours_text = spec(ASSETS / "tokenizer.model")
    theirs, their_text = spec(glm2_vocab)
    for key in ("model_type", "byte_fallback", "split_digits", "split_by_unicode_script", "split_by_number",
                "allow_whitespace_only_pieces", "unk_id", "bos_id", "eos_id", "pad_id"):  # fmt: skip
        assert getattr(ours, key) == getattr(theirs, key), key
    for key in ("name", "add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        assert getattr(ours_text, key) == getattr(their_text, key), key


@pytest.mark.parametrize("kind", [ChatGLM2Tokenizer, ChatGLM3Tokenizer])
def test_special_ids_fit_below_the_padded_vocabulary(kind, pieces):
    tokenizer = kind(str(ASSETS / "tokenizer.model"))
    assert pieces.vocab_size() == make_tokenizer.VOCABULARY == tokenizer.get_command("[MASK]")
    assert tokenizer.vocab_size <= 4096


def test_common_characters_are_one_piece(pieces):
    split = [mark for mark in characters() if pieces.piece_to_id(mark) == 0 and pieces.piece_to_id("▁" + mark) == 0]
    assert split == []


def test_any_text_survives(pieces):
    for text in (
        "这款真丝连衣裙，很是优雅。",
        "A red silk dress.",
        "龘靐👍🏽 mixed 文字\n\n\t  x",
        "[Round 1]\n\n问：你好\n\n答：",
    ):
        assert pieces.decode(pieces.encode(text)) == text


def test_it_can_be_made_again(tmp_path):
    make_corpus.write_lines(tmp_path / "corpus.jsonl", make_corpus.corpus(2000, 0))
    first = make_tokenizer.train(tmp_path / "corpus.jsonl", vocabulary=3500)
    assert SentencePieceProcessor(model_proto=first).vocab_size() == 3500
    assert first == make_tokenizer.train(tmp_path / "corpus.jsonl", vocabulary=3500)


@pytest.mark.parametrize("train", [make_tokenizer.train, vocabulary.train])
@pytest.mark.parametrize(("text", "fault"), [("", "it is empty"), ('{"text": "a"}\n{', "line 2: it is no JSON")])
def test_a_corpus_that_is_none(tmp_path, train, text, fault):
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(DataError, match=fault):
        train(tmp_path / "c.jsonl")
