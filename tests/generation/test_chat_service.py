"""model.chat and model.stream_chat over the tiny official models."""

from __future__ import annotations

import pytest

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation import GenerationConfig, TextStreamer
from mindformers_glm.generation.chat import stream_chat, stream_reply
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer
from mindformers_glm.tokenizers.chat import Renderer
from mindformers_glm.tokenizers.reply import parse_reply


@pytest.fixture(scope="module")
def tokenizer2(glm2_vocab):
    return ChatGLM2Tokenizer(glm2_vocab)


@pytest.fixture(scope="module")
def tokenizer3(glm3_vocab):
    return ChatGLM3Tokenizer(glm3_vocab)


def test_a_chat_of_two_turns(glm2, tokenizer2):
    query, _ = glm2.queries[0]
    response, history = glm2.model.chat(tokenizer2, query, max_new_tokens=24)
    assert response == parse_reply(tokenizer2, glm2.reply(0)).content
    assert history == [(query, response)]
    forwards = []
    network = glm2.engine.network
    forward, network.forward = network.forward, lambda *given: forwards.append(given[0].shape) or forward(*given)
    second, longer = glm2.model.chat(tokenizer2, "再说", history, max_new_tokens=3)
    network.forward = forward
    prompt = Renderer(tokenizer2).prompt(history, "再说")
    assert forwards[0][1] < len(prompt)  # the first turn was kept
    fresh = glm2.model.generate(prompt, max_new_tokens=3)[0].tolist()
    assert second == parse_reply(tokenizer2, fresh[len(prompt) :]).content
    assert longer == [*history, ("再说", second)]


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_history_of_the_official_cases(glm2, tokenizer2):
    for row, (query, history) in enumerate(glm2.queries):
        response, longer = glm2.model.chat(tokenizer2, query, history, max_new_tokens=24)
        assert response == parse_reply(tokenizer2, glm2.reply(row)).content
        assert longer == [*history, (query, response)]


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_messages_of_glm3(glm3, tokenizer3):
    query, _ = glm3.queries[0]
    response, history = glm3.model.chat(tokenizer3, query, max_new_tokens=24)
    assert response == parse_reply(tokenizer3, glm3.reply(0)).content
    assert history == [
        {"role": "user", "content": query},
        {"role": "assistant", "content": response, "metadata": ""},
    ]
    query, pairs = glm3.queries[2]
    response, history = glm3.model.chat(tokenizer3, query, pairs, max_new_tokens=24)
    assert history == [*pairs, (query, response)]


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_a_query_may_be_a_message_or_a_conversation(glm3, tokenizer3):
    query, past = {"role": "user", "content": "你好"}, [("早", "早上好")]
    plain = glm3.model.chat(tokenizer3, "你好", max_new_tokens=4)
    for form in (query, [query], (query,)):
        assert glm3.model.chat(tokenizer3, form, max_new_tokens=4) == plain
    told = [{"role": "system", "content": "S"}, {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    whole = glm3.model.chat(tokenizer3, [*told, query], max_new_tokens=4)
    assert whole == glm3.model.chat(tokenizer3, "你好", told, max_new_tokens=4)
    assert glm3.model.chat(tokenizer3, [query], past, max_new_tokens=4).history[:1] == past
    for wrong, words in (
        ([], "got \\[\\]"),
        ([*told], "last message"),
        (["你好"], "a list of messages"),
        (5, "expected text"),
    ):
        with pytest.raises(GenerationError, match=words):
            glm3.model.chat(tokenizer3, wrong)


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_the_stream_grows_to_the_reply(glm2, tokenizer2):
    turns = list(glm2.model.stream_chat(tokenizer2, glm2.queries[1][0], max_new_tokens=24))
    response = glm2.model.chat(tokenizer2, glm2.queries[1][0], max_new_tokens=24).response
    assert len(turns) == 25 and turns[-1].response == response
    assert all(later.response.startswith(earlier.response) for earlier, later in zip(turns, turns[1:], strict=False))


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_closing_the_stream_stops_the_reply(glm2, tokenizer2):
    stream = glm2.model.stream_chat(tokenizer2, "你好", max_new_tokens=300)
    next(stream)
    stream.close()
    begin = list(stream_reply(glm2.engine, tokenizer2, [5, 6], GenerationConfig(max_new_tokens=2)))
    assert [event.token is None for event in begin] == [False, False, True]
    rows, network = [], glm2.engine.network
    forward, network.forward = network.forward, lambda *given: rows.append(len(given[0])) or forward(*given)
    glm2.model.generate([5, 6], max_new_tokens=3)
    network.forward = forward
    assert set(rows) == {1}  # the row of the closed stream is computed no more


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_a_streamer_prints_what_generate_returns(glm2, tokenizer2, capsys):
    ids = glm2.model.generate(glm2.prompts[0], streamer=TextStreamer(tokenizer2), do_sample=False, max_new_tokens=24)[0]
    assert tokenizer2.decode(ids) in capsys.readouterr().out


@pytest.mark.slow_where(lambda kernels: kernels == "off")
def test_what_a_chat_cannot_do(glm2, tokenizer2):
    with pytest.raises(GenerationError, match="a chat has one reply"):
        glm2.model.chat(tokenizer2, "你好", num_beams=2)
    with pytest.raises(GenerationError, match="role"):
        glm2.model.chat(tokenizer2, "你好", role="god")
    with pytest.raises(GenerationError, match="Did you mean 'temperature'"):
        glm2.model.chat(tokenizer2, "你好", temperatur=1)


@pytest.mark.parametrize("history", [-1, "你好", {"role": "user", "content": "你好"}, 3.5])
def test_a_history_that_is_no_list_is_named(history):
    with pytest.raises(GenerationError, match="history is .* not a list"):
        next(stream_chat(None, None, "你好", history))
