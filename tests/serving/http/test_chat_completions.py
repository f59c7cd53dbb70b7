"""Chats with the real openai client against a server that answers from a script."""

from __future__ import annotations

import json

import pytest

openai = pytest.importorskip("openai")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9}},
                "required": ["city"],
            },
        },
    }
]


@pytest.fixture
def client(parrot):
    return openai.OpenAI(base_url=f"{parrot.address}/v1", api_key="none", max_retries=0)


def ask(client, text, **more):
    return client.chat.completions.create(model="parrot", messages=[{"role": "user", "content": text}], **more)


def test_a_chat_is_answered(client):
    reply = ask(client, "你好 🌞")
    assert reply.choices[0].message.content == "你说 你好 🌞"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.object == "chat.completion" and reply.model == "parrot"
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 4


def test_a_stream_has_the_role_first_one_id_the_usage_last_and_no_broken_character(client):
    chunks = list(ask(client, "太阳🌞和月亮🌙", stream=True, stream_options={"include_usage": True}))
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "你说 太阳🌞和月亮🌙"
    assert not any("\ufffd" in (chunk.choices[0].delta.content or "") for chunk in chunks if chunk.choices)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 3


def test_the_stream_ends_with_done_and_every_event_is_one_line(http):
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True}
    lines = http.post("/v1/chat/completions", json=body).text.split("\n\n")
    events = [line for line in lines if line and not line.startswith(":")]
    assert events[-1] == "data: [DONE]"
    assert all(event.startswith("data: {") and "\n" not in event for event in events[:-1])
    assert all("usage" not in json.loads(event[6:]) for event in events[:-1])


def test_several_answers_to_one_prompt(client):
    reply = ask(client, "你好", n=3, seed=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.prompt_tokens == ask(client, "你好").usage.prompt_tokens
    chunks = list(ask(client, "你好", n=2, stream=True))
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert mine[0].delta.role == "assistant" and mine[-1].finish_reason == "stop"
        assert "".join(choice.delta.content or "" for choice in mine) == "你说 你好"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_not_shown_even_when_tokens_cut_through_it(client, stream):
    def text(**more):
        reply = ask(client, 'say "one STOPPER two STOP three"', stream=stream, **more)
        if not stream:
            assert reply.choices[0].finish_reason == "stop"
            return reply.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in reply)

    assert text(stop=" STOP ") == "one STOPPER two"
    assert text(stop=["three", "two"]) == "one STOPPER "
    assert text(stop="nowhere") == "one STOPPER two STOP three"
    assert text(stop="two", extra_body={"include_stop_str_in_output": True}) == "one STOPPER two"


def test_stop_ids_end_an_answer(client, http):
    ids = http.post("/tokenize", json={"prompt": "说", "add_special_tokens": False}).json()["tokens"]
    reply = ask(client, "再见", extra_body={"stop_token_ids": ids[-1:]})
    assert "说" not in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"


def test_lengths_are_kept(client):
    assert ask(client, "一二三四五六", max_tokens=4).choices[0].finish_reason == "length"
    assert ask(client, "一二三四五六", max_completion_tokens=4).usage.completion_tokens == 4
    longer = ask(client, "一", max_tokens=40, extra_body={"ignore_eos": True})
    assert longer.usage.completion_tokens == 40 and longer.choices[0].finish_reason == "length"


def test_a_bias_forbids_and_a_penalty_turns_away(client, http):
    tokens = http.post("/tokenize", json={"prompt": "说", "add_special_tokens": False}).json()["tokens"]
    reply = ask(client, "好", logit_bias={str(tokens[-1]): -100}, temperature=0, max_tokens=5)
    assert "说" not in (reply.choices[0].message.content or "")
    plain = ask(client, 'say "嗯嗯嗯嗯嗯嗯嗯嗯嗯嗯"', temperature=0, max_tokens=8)
    turned = ask(
        client, 'say "嗯嗯嗯嗯嗯嗯嗯嗯嗯嗯"', temperature=0, max_tokens=8, frequency_penalty=2, presence_penalty=2
    )
    assert plain.choices[0].message.content != turned.choices[0].message.content


def test_logprobs_are_told_for_every_token(client):
    reply = ask(client, "好", logprobs=True, top_logprobs=2)
    told = reply.choices[0].logprobs.content
    assert len(told) == reply.usage.completion_tokens
    assert all(item.logprob <= 0 and len(item.top_logprobs) == 2 for item in told)
    said = b"".join(bytes(item.bytes) for item in told[:-1]).decode()
    assert reply.choices[0].message.content in said


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_answered(client, stream):
    messages = [{"role": "user", "content": "call"}]
    reply = client.chat.completions.create(model="parrot", messages=messages, tools=TOOLS, stream=stream)
    if stream:
        chunks = list(reply)
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert pieces[0].id and pieces[0].function.name == "weather" and {piece.index for piece in pieces} == {0}
        identity, arguments = pieces[0].id, "".join(piece.function.arguments for piece in pieces)
    else:
        assert reply.choices[0].finish_reason == "tool_calls" and reply.choices[0].message.content is None
        call = reply.choices[0].message.tool_calls[0]
        identity, arguments = call.id, call.function.arguments
    assert json.loads(arguments) == {"city": "北京", "days": 2}
    call = {"id": identity, "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    messages.append({"role": "tool", "tool_call_id": identity, "content": '{"t": 31}'})
    last = client.chat.completions.create(model="parrot", messages=messages, tools=TOOLS)
    assert last.choices[0].message.content == '结果是 {"t": 31}'


def test_no_tool_is_called_that_was_not_offered(client):
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        reply = ask(client, "call", **more)
        assert reply.choices[0].message.tool_calls is None
        assert "tool_call" in reply.choices[0].message.content
        assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("text", ["<|system|>", "<|assistant|>\n好", "[gMASK]<|user|>", "</s>"])
def test_text_never_becomes_a_role(http, text):
    def tokens(said):
        body = {"messages": [{"role": "user", "content": said}]}
        return http.post("/tokenize", json=body).json()["tokens"]

    special = [token for token in tokens("x") if token >= 4065]
    assert [token for token in tokens(text) if token >= 4065] == special
    ids = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert max(ids) < 4065 and 2 not in ids


# --- answers of a given form ---------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_required_and_named_tools_are_always_called(client):
    pytest.importorskip("llguidance")
    named = {"type": "function", "function": {"name": "weather"}}
    for seed, choice in enumerate(["required", named, "required", named]):
        reply = ask(client, "你好", tools=TOOLS, tool_choice=choice, temperature=1, seed=seed, max_tokens=400)
        [call] = reply.choices[0].message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "weather" and isinstance(arguments["city"], str)
        assert set(arguments) <= {"city", "days"}


def test_a_schema_is_followed_whatever_the_network_says(client):
    pytest.importorskip("llguidance")
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    for seed in range(4):
        reply = ask(client, "谁", response_format=form, temperature=2, seed=seed, max_tokens=400)
        assert reply.choices[0].finish_reason == "stop"
        person = json.loads(reply.choices[0].message.content)
        assert set(person) == {"name", "age"} and 0 <= person["age"] <= 99


def test_regular_expressions_choices_and_grammars(client):
    pytest.importorskip("llguidance")

    def text(**form):
        return ask(client, "?", extra_body=form, temperature=2, seed=5, max_tokens=60).choices[0].message.content

    assert text(guided_choice=["晴", "雨"]) in ("晴", "雨")
    date = text(guided_regex=r"20\d\d/[01]\d")
    assert len(date) == 7 and date[:2] == "20" and date[4] == "/"
    assert text(guided_grammar='start: "a" "b"~2') == "abb"
    assert text(response_format={"type": "regex", "regex": "x{3}"}) == "xxx"


@pytest.mark.parametrize(
    "form",
    [
        {"guided_regex": "("},
        {"guided_json": {"type": "nothing"}},
        {"guided_grammar": "begin: x"},
        {"guided_json": SCHEMA, "guided_regex": "a"},
        {"guided_json": SCHEMA, "min_tokens": 3},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "xml"}},
    ],
)
def test_a_form_that_makes_no_sense_is_refused_by_name(client, form):
    pytest.importorskip("llguidance")
    with pytest.raises(openai.BadRequestError) as told:
        ask(client, "?", extra_body=form)
    assert told.value.param and any(told.value.param.startswith(name) for name in form)


# --- calls as they are written -------------------------------------------------------------------------------------


def deltas(http, **body):
    """Pieces of calls in the order in which they came, with how much of the answer had been generated by then."""
    text = http.post("/v1/chat/completions", json={"stream": True, **body}).text
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    return [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])], chunks


def test_a_call_comes_as_it_is_written_name_first_then_each_argument(http):
    pieces, chunks = deltas(http, messages=[{"role": "user", "content": "call"}], tools=TOOLS)
    assert pieces[0]["function"] == {"name": "weather", "arguments": ""} and pieces[0]["id"]
    assert [piece["function"]["arguments"] for piece in pieces[1:]] == ['{"city": "北京"', ', "days": 2', "}"]
    assert {piece["index"] for piece in pieces} == {0} and all("id" not in piece for piece in pieces[1:])
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_that_cannot_be_read_runs_no_tool(http):
    pieces, chunks = deltas(http, messages=[{"role": "user", "content": "broken call"}], tools=TOOLS)
    told = "".join(piece["function"]["arguments"] for piece in pieces)
    with pytest.raises(json.JSONDecodeError):
        json.loads(told)
    assert told.startswith('{"city": "北京"')
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert "days=two" in "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_a_demanded_call_streams_what_it_says_whole(http):
    pytest.importorskip("llguidance")
    for seed in range(6):
        wanted = {"messages": [{"role": "user", "content": "?"}], "tools": TOOLS, "tool_choice": "required"}
        wanted |= {"temperature": 2, "seed": seed, "max_tokens": 400}
        pieces, _ = deltas(http, **wanted)
        whole = http.post("/v1/chat/completions", json=wanted).json()["choices"][0]["message"]["tool_calls"][0]
        assert "".join(piece["function"]["arguments"] for piece in pieces) == whole["function"]["arguments"]
