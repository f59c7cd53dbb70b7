"""Streamed text equals decoded text, for the real vocabulary and for small ones of every make."""

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, Renderer, TextStream, stream_text

PARAGRAPH = (
    "你好，世界。今天天气怎么样？ The quick brown fox jumps over the lazy dog. 类型#裙*颜色#白色*风格#简约 " * 40
)
BYTES = st.integers(3, 258)
IDS = st.lists(
    st.one_of(BYTES, BYTES, st.sampled_from([0, 1, 2, 13, 265, 30910, 64790, 64795, 65000, -1]), st.integers(0, 65023)),
    max_size=16,
)


@pytest.fixture(scope="module")
def glm2(glm2_vocab):
    return ChatGLM2Tokenizer(glm2_vocab)


@pytest.fixture(scope="module")
def glm3(glm3_vocab):
    return ChatGLM3Tokenizer(glm3_vocab)


@pytest.fixture(scope="module", params=["plain", "no dummy prefix", "keeps spaces", "no bytes"])
def small(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "text.txt").write_text(PARAGRAPH.replace(" ", " \n"), encoding="utf-8")
    options = {
        "plain": {"byte_fallback": True, "vocab_size": 400},
        "no dummy prefix": {"byte_fallback": True, "add_dummy_prefix": False, "vocab_size": 400},
        "keeps spaces": {"byte_fallback": True, "remove_extra_whitespaces": False, "vocab_size": 400},
        "no bytes": {"vocab_size": 120},
    }[request.param]
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), hard_vocab_limit=False,
        minloglevel=2, character_coverage=1.0, normalization_rule_name="identity", **options,
    )  # fmt: skip
    return ChatGLM3Tokenizer(str(folder / "tokenizer.model"))


@settings(max_examples=600, deadline=None)
@given(IDS, st.booleans())
def test_stream_equals_decode(glm2, glm3, ids, skip):
    for tokenizer in (glm2, glm3):
        assert "".join(stream_text(tokenizer, ids, skip_special_tokens=skip)) == tokenizer.decode(ids, skip)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=24))
def test_bytes_are_never_shown_broken_before_they_are(glm2, data):
    stream = TextStream(glm2)
    shown = "".join(stream.push(byte + 3) for byte in data)
    whole = glm2.decode([byte + 3 for byte in data])
    assert whole.startswith(shown)
    assert shown + stream.flush() == whole
    if b"\xef\xbf\xbd" not in data:
        valid = data.decode("utf-8", "ignore")
        assert shown.count("\ufffd") <= len(data) - len(valid.encode())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_real_text_streams_without_a_broken_character(glm2, text):
    ids = glm2.encode(text, add_special_tokens=False)
    pieces = list(stream_text(glm2, ids))
    assert "".join(pieces) == glm2.decode(ids)
    if "\ufffd" not in text.encode("utf-8", "replace").decode():
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_small_vocabularies_stream_alike(small, data):
    ids = data.draw(st.lists(st.integers(-2, small.vocab_size + 5), max_size=16))
    for skip in (True, False):
        assert "".join(stream_text(small, ids, skip_special_tokens=skip)) == small.decode(ids, skip)


def test_small_vocabularies_serve_as_tokenizers(small):
    size = small.vocabulary.text_size
    assert small.vocab_size == size + 9
    assert small.get_prefix_tokens() == [size + 1, size + 3]
    assert small.decode(small.encode("你好，世界。"), skip_special_tokens=True) == "你好，世界。"
    assert max(small.encode("<|user|>[gMASK]</s>", add_special_tokens=False)) < size
    renderer = Renderer(small)
    assert renderer.prompt([], "你好") == renderer.example([("你好", "世界")]).ids[: len(renderer.prompt([], "你好"))]
    two = Renderer(ChatGLM2Tokenizer(small.vocab_file))
    rounds = [("你好", "世界。"), ("今天", "天气")]
    example = two.example(rounds)
    assert example.labels.count(two.tokenizer.eos_token_id) == 2
    assert two.prompt(rounds[:1], "今天") == example.ids[: len(two.prompt(rounds[:1], "今天"))]
