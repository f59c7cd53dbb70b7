"""Completions and tokens, with glm2_tiny behind the command line's own server and the real openai client."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def http(tiny):
    with httpx.Client(base_url=tiny.address, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def client(tiny):
    return openai.OpenAI(base_url=f"{tiny.address}/v1", api_key="none", max_retries=0, timeout=120)


def test_a_chat_says_the_same_streamed_and_whole_at_temperature_0(client):
    asked = {
        "model": "glm2_tiny",
        "messages": [{"role": "user", "content": "你好"}],
        "temperature": 0,
        "max_tokens": 24,
    }
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = client.chat.completions.create(**asked, stream=True)
    assert whole == "".join(chunk.choices[0].delta.content or "" for chunk in pieces) != ""
    assert whole == client.chat.completions.create(**asked).choices[0].message.content


def test_a_seed_repeats_an_answer_and_its_n_differ(client):
    asked = {"model": "glm2_tiny", "prompt": "今天", "temperature": 1.5, "max_tokens": 12, "n": 4}
    first = [choice.text for choice in client.completions.create(**asked, seed=7).choices]
    again = [choice.text for choice in client.completions.create(**asked, seed=7).choices]
    other = [choice.text for choice in client.completions.create(**asked, seed=8).choices]
    assert first == again != other
    assert len(set(first)) > 1


def test_prompts_come_as_texts_ids_and_batches(client, http):
    text = "北京是"
    ids = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    asked = {"model": "glm2_tiny", "temperature": 0, "max_tokens": 6}
    [one] = client.completions.create(prompt=text, **asked).choices
    for prompt in (ids, [ids]):
        assert client.completions.create(prompt=prompt, **asked).choices[0].text == one.text
    many = client.completions.create(prompt=["上海", text, "今天"], **asked).choices
    assert [choice.index for choice in many] == [0, 1, 2] and many[1].text == one.text


def test_echo_and_logprobs_tell_the_prompt(client, http):
    """What `lm_eval --model local-completions` asks for."""
    ids = http.post("/tokenize", json={"prompt": "今天天气"}).json()["tokens"]
    asked = {"model": "glm2_tiny", "prompt": [ids], "echo": True, "logprobs": 1, "temperature": 0, "seed": 1}
    [told] = client.completions.create(**asked, max_tokens=1).choices
    probabilities = told.logprobs.token_logprobs
    assert probabilities[0] is None and len(probabilities) == len(ids) + 1
    assert all(value <= 0 for value in probabilities[1:])
    for word, value, best in zip(
        told.logprobs.tokens[1:], probabilities[1:], told.logprobs.top_logprobs[1:], strict=True
    ):
        assert best[word] == pytest.approx(value, abs=1e-4) and max(best.values()) >= value - 1e-4
    [alone] = client.completions.create(**asked, max_tokens=0).choices
    np.testing.assert_allclose(alone.logprobs.token_logprobs[1:], probabilities[1:-1], atol=1e-4)
    assert told.text.startswith("今天天气")


def test_the_best_of_several_has_the_highest_mean_logprob(client):
    asked = {"model": "glm2_tiny", "prompt": "今天", "temperature": 1.5, "max_tokens": 8, "seed": 3, "logprobs": 0}
    every = client.completions.create(**asked, n=4).choices
    [best] = client.completions.create(**asked, best_of=4).choices
    means = [np.mean(choice.logprobs.token_logprobs) for choice in every]
    assert best.text == every[int(np.argmax(means))].text


def test_text_goes_to_ids_and_back(http):
    told = http.post("/tokenize", json={"prompt": "你好 world 🌞", "add_special_tokens": False}).json()
    assert told["count"] == len(told["tokens"]) and told["max_model_len"] == 512
    assert http.post("/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": "你好 world 🌞"}
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == "</s>" and info["vocab_size"] == 4096
    assert http.post("/detokenize", json={"tokens": [-1]}).json()["error"]["param"] == "tokens"


def test_tools_are_refused_where_the_model_knows_none(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(openai.BadRequestError, match="ChatGLM2 knows no tools"):
        client.chat.completions.create(
            model="glm2_tiny", messages=[{"role": "user", "content": "x"}], tools=[tool], max_tokens=2
        )
