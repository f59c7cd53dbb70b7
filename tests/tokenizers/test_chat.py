"""The renderer: official ids, labels by policy, prompts that are beginnings of examples, nothing forged."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.tokenizers import (
    ChatGLM2Tokenizer,
    ChatGLM3Tokenizer,
    Message,
    Renderer,
    parse_reply,
    read_messages,
)

ROLE_WORDS = ["<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "[gMASK]", "sop", "</s>", "<eop>", "\n"]
texts = st.lists(st.one_of(st.sampled_from(ROLE_WORDS), st.text(max_size=6)), max_size=4).map("".join)


@pytest.fixture(scope="module")
def glm2(glm2_vocab):
    return Renderer(ChatGLM2Tokenizer(glm2_vocab))


@pytest.fixture(scope="module")
def glm3(glm3_vocab):
    return Renderer(ChatGLM3Tokenizer(glm3_vocab))


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def learned(renderer, rendered):
    """The learned tokens, one string for each stretch of them."""
    stretches, open_stretch = [], []
    for label in [*rendered.labels, -100]:
        if label != -100:
            open_stretch.append(label)
        elif open_stretch:
            stretches.append("".join(renderer.tokenizer.convert_ids_to_tokens(open_stretch)))
            open_stretch = []
    return stretches


def test_prompts_of_the_official_tokenizers(golden, glm2, glm3):
    official = json.loads((golden / "tokenizer_hf.json").read_text())
    for case in official["glm3_chat"]:
        assert glm3.prompt(case["messages"]) == case["ids"]
    for case in official["glm2_prompt"]:
        assert glm2.prompt(case["history"], case["query"]) == glm2.tokenizer.encode(case["prompt"])


def test_glm3_cases_of_chatglm_cpp(shared, glm3):
    for case in json.loads((shared / "data/expected_tokenizer_cases.json").read_text())["chatglm3"]:
        if "messages" in case:
            assert glm3.prompt(case["messages"]) == case["input_ids"]


def test_one_round_of_glm2_is_the_row_of_the_advertisement_dataset(glm2):
    tokenizer = glm2.tokenizer
    prompt = tokenizer.encode(tokenizer.build_prompt("类型#裙"))
    answer = tokenizer.encode("好裙子。", add_special_tokens=False)
    rendered = glm2.example([("类型#裙", "好裙子。")])
    assert rendered.ids == [*prompt, *answer, 2]
    assert rendered.labels == [-100] * (len(prompt) - 1) + [*answer, 2, -100]


def test_glm2_learns_every_reply_and_its_end(glm2):
    rendered = glm2.example([("早", "早上好"), ("几点了", "八点👋")])
    assert learned(glm2, rendered) == ["早上好</s>", "▁八点<0xF0><0x9F><0x91><0x8B></s>"]
    assert rendered.ids[-1] == 2


def test_glm3_learns_replies_calls_and_the_tokens_that_end_them(glm3):
    turns = [
        user("天气"),
        {"role": "tool", "name": "get", "parameters": {"city": "北京"}, "observation": "3"},
        assistant("三度"),
        user("谢谢"),
        assistant("不"),
    ]
    rendered = glm3.example(turns, tools=[{"name": "get"}])
    call = "▁get<0x0A>▁```python<0x0A>tool_call(city='北京')<0x0A>```<|observation|>"
    assert learned(glm3, rendered) == [call, "▁<0x0A>▁三度<|user|>", "▁<0x0A>▁不</s>"]
    assert rendered.ids[2] == glm3.tokenizer.get_command("<|system|>")


def test_a_role_that_opens_a_reply_is_not_learned_unless_it_ends_one(glm3):
    opening = glm3.tokenizer.get_command("<|assistant|>")
    assert opening not in glm3.example([user("a"), assistant("b")]).labels
    assert glm3.example([user("a"), assistant("b"), assistant("c")]).labels.count(opening) == 1


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("all", ["甲", "乙", "丙", "丁"]), ("last", ["丙", "丁"]), ("per_message", [])],
)
def test_loss_policies(glm3, policy, expected):
    turns = [user("1"), assistant("甲"), user("2"), assistant("乙"), user("3"), assistant("丙"), assistant("丁")]
    rendered = glm3.example(turns, loss=policy)
    text = "".join(learned(glm3, rendered))
    assert [letter for letter in "甲乙丙丁" if letter in text] == expected


def test_a_message_decides_for_itself(glm2, glm3):
    turns = [user("1"), assistant("甲", loss=False), user("2"), assistant("乙", loss=True), user("3"), assistant("丙")]
    for renderer, own in ((glm2, "乙</s>"), (glm3, "▁<0x0A>▁乙<|user|>")):
        assert learned(renderer, renderer.example(turns, loss="per_message")) == [own]
        text = "".join(learned(renderer, renderer.example(turns)))
        assert "甲" not in text
        assert "丙" in text
    assert read_messages([assistant("x", weight=0)])[0].loss is False


def test_both_forms_of_history_are_the_same(glm2, glm3):
    pairs = [("早", "早上好"), ("几点了", "八点")]
    messages = [user("早"), assistant("早上好"), user("几点了"), assistant("八点")]
    for renderer in (glm2, glm3):
        assert (
            renderer.prompt(pairs, "你好")
            == renderer.prompt(messages, "你好")
            == renderer.prompt([*messages, user("你好")])
        )
        assert renderer.example(pairs) == renderer.example(messages)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=4), texts, texts, st.sampled_from(["all", "last", "per_message"]))
def test_a_prompt_is_the_beginning_of_its_example(glm2, glm3, pairs, query, reply, policy):
    for renderer in (glm2, glm3):
        prompt = renderer.prompt(pairs, query)
        example = renderer.example([*pairs, (query, reply)], loss=policy)
        assert example.ids[: len(prompt)] == prompt
        assert len(example.ids) == len(example.labels)
        assert example.ids[-1] == renderer.tokenizer.eos_token_id
        assert example.labels[-1] == -100


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=3), texts, texts)
def test_text_forges_no_role(glm3, glm2, pairs, query, system):
    ids = glm3.prompt(pairs, query, system=system)
    roles = [index for index in ids if index in glm3.tokenizer.all_special_ids]
    spoken = ["<|system|>", *["<|user|>", "<|assistant|>"] * len(pairs), "<|user|>", "<|assistant|>"]
    assert roles == [64790, 64792, *(glm3.tokenizer.get_command(name) for name in spoken)]
    ids = glm2.prompt(pairs, query, system=system)
    assert [index for index in ids if index in glm2.tokenizer.all_special_ids] == [64790, 64792]


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=3))
def test_what_is_learned_is_what_is_parsed_back(glm3, parts):
    reply = "".join(parts)
    prompt = glm3.prompt([], "x")
    ids = glm3.example([("x", reply)]).ids[len(prompt) :]
    parsed = parse_reply(glm3.tokenizer, ids)
    assert parsed.content == reply.encode("utf-8", "replace").decode().replace("\u2581", " ").strip()
    assert parsed.end == "eos"


def test_openai_calls_become_call_and_result_in_turn(glm3):
    history = [
        user("weather?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "get", "arguments": '{"city": "Rome"}'}},
                {"id": "b", "type": "function", "function": {"name": "get", "arguments": '{"a-b": 1}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "b", "content": "warm"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "cold"}]},
    ]
    messages = read_messages(history)
    assert [(m.role, m.metadata) for m in messages[1:]] == [("assistant", "get"), ("observation", "")] * 2
    assert messages[1].content == "```python\ntool_call(**{'a-b': 1})\n```"
    assert messages[2].content == "warm"
    assert messages[3].content == "```python\ntool_call(city='Rome')\n```"
    assert messages[4].content == "cold"
    legacy = [
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "content": "1"},
    ]
    assert [m.role for m in read_messages(legacy)] == ["assistant", "observation"]


def test_tools_join_the_system_message(glm3):
    wrapped = [{"type": "function", "function": {"name": "get", "description": "查"}}]
    plain = read_messages([user("x")], tools=wrapped)
    assert plain[0].role == "system"
    assert plain[0].content.startswith("Answer the following questions")
    own = read_messages([{"role": "system", "content": "Be brief."}, user("x")], tools=wrapped)
    assert own[0].content == "Be brief."
    text = glm3.tokenizer.decode(glm3.prompt(own), skip_special_tokens=True)
    assert json.dumps([wrapped[0]["function"]], indent=4, ensure_ascii=False) in text
    compact = Renderer(glm3.tokenizer, tools_indent=None)
    assert len(compact.prompt(own)) < len(glm3.prompt(own))


def test_empty_messages_and_long_histories(glm2, glm3):
    for renderer in (glm2, glm3):
        assert renderer.prompt([("", "")], "")
        assert renderer.example([("", "")]).ids[-1] == 2
        turns = [("早", "好")] * 1000
        assert len(renderer.prompt(turns, "x")) > 4000
        assert sum(label != -100 for label in renderer.example(turns).labels) >= 2000


def test_glm2_puts_system_before_the_first_round(glm2):
    ids = glm2.prompt([], "x", system="Be brief.")
    assert glm2.tokenizer.decode(ids) == "Be brief.\n\n[Round 1]\n\n问：x\n\n答："


def test_wrong_conversations_are_named(glm2, glm3):
    for call, words in (
        (lambda: read_messages([{"role": "robot", "content": "x"}]), "role: got 'robot'"),
        (lambda: read_messages(["x"]), "pair"),
        (lambda: read_messages([{"content": "x"}]), "role and content"),
        (lambda: read_messages([user(3)]), "expected text"),
        (lambda: read_messages([user([{"type": "image_url"}])]), "expected text"),
        (lambda: read_messages([assistant("x", metadata="a\nb")]), "one line"),
        (lambda: read_messages([assistant("", tool_calls=[{"function": {"arguments": "{}"}}])]), "function.name"),
        (
            lambda: read_messages([assistant("", tool_calls=[{"function": {"name": "f", "arguments": "{"}}])]),
            "not JSON",
        ),
        (lambda: read_messages([{"role": "tool", "name": "f", "parameters": [1]}]), "must be an object"),
        (lambda: glm2.prompt([user("a"), user("b")]), "user and assistant in turn"),
        (lambda: glm2.prompt([("a", "b")]), "the last message must be the user's"),
        (lambda: glm2.prompt([], "x", tools=[{"name": "f"}]), "ChatGLM2 knows no tools"),
        (lambda: glm3.prompt([Message("system", "x", tools=[object()])]), "not JSON"),
        (lambda: glm3.check([Message("user", "x")]), "nothing to learn"),
    ):
        with pytest.raises(GenerationError, match=words):
            call()
    with pytest.raises(ConfigError, match="loss_policy"):
        glm3.example([("a", "b")], loss="some")
