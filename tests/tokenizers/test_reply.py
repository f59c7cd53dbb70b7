"""Replies read from ids: text, tool calls, and nothing that is executed or shown too early."""

import random

import pytest

from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, ReplyStream, ToolCall, parse_reply
from mindformers_glm.tokenizers.toolcall import read_arguments

ASSISTANT, OBSERVATION, USER, SYSTEM, EOS = "<|assistant|>", "<|observation|>", "<|user|>", "<|system|>", "</s>"
SPECIALS = (ASSISTANT, OBSERVATION, USER, SYSTEM, EOS)


@pytest.fixture(scope="module")
def glm2(root):
    return ChatGLM2Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


@pytest.fixture(scope="module")
def glm3(root):
    return ChatGLM3Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


def ids(tokenizer, *parts):
    found = []
    for part in parts:
        found += [tokenizer.get_command(part)] if part in SPECIALS else tokenizer.vocabulary.encode(part)
    return found


def test_plain_replies(glm2, glm3):
    assert parse_reply(glm3, ids(glm3, "\n", " 你好 ", EOS)).content == "你好"
    assert parse_reply(glm3, ids(glm3, "你好，没有换行", USER)).content == "你好，没有换行"
    assert parse_reply(glm3, ids(glm3, "Sure, here:\n1. a\n2. b")).content == "Sure, here:\n1. a\n2. b"
    assert parse_reply(glm3, ids(glm3, "yes")).content == "yes"
    assert parse_reply(glm2, ids(glm2, "\n你好\n", EOS)).content == "你好"
    assert parse_reply(glm2, []).content == ""
    assert parse_reply(glm3, ids(glm3, "\n截止 [[训练时间]]。")).content == "截止 2023年。"


def test_ends_are_told_apart(glm3):
    for token, name in ((EOS, "eos"), (USER, "user"), (OBSERVATION, "observation"), (SYSTEM, "role")):
        reply = parse_reply(glm3, ids(glm3, "\nhi", token, "hidden"))
        assert (reply.end, reply.content) == (name, "hi")
    assert parse_reply(glm3, ids(glm3, "\nhi")).end is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("```python\ntool_call(city='北京')\n```", {"city": "北京"}),
        ("```python\ntool_call(city='北京'", None),
        ("tool_call(n=[1, -2.5, (3,)], flag=true, none=null, d={'a': {'b': 'c'}})", 5),
        ('```json\n{"city": "北京"}\n```', {"city": "北京"}),
        ('{"name": "get_weather", "arguments": "{\\"city\\": \\"北京\\"}"}', {"city": "北京"}),
        ('{"name": "get_weather", "parameters": {"city": 1}}', {"city": 1}),
        ("```python\ntool_call(**{'a-b': 1}, c=2)```", {"a-b": 1, "c": 2}),
        ("tool_call({'a': 1})", {"a": 1}),
        ("tool_call()", {}),
    ],
)
def test_calls_in_every_usual_form(glm3, body, expected):
    reply = parse_reply(glm3, ids(glm3, f"get_weather\n{body}", OBSERVATION))
    if expected is None:
        assert reply.tool_calls == []
        assert reply.faults
        assert reply.content.startswith("get_weather\n")
    elif expected == 5:
        assert reply.tool_calls[0].arguments == {
            "n": [1, -2.5, [3]],
            "flag": True,
            "none": None,
            "d": {"a": {"b": "c"}},
        }
    else:
        assert reply.tool_calls == [ToolCall("get_weather", expected)]
        assert reply.content == ""


@pytest.mark.parametrize(
    "body",
    [
        "tool_call(x=__import__('os').system('true'))",
        "tool_call(x=open)",
        "tool_call(x=1+1)",
        "tool_call(x=[y for y in (1,)])",
        "tool_call(x=f'{1}')",
        "tool_call(x={1, 2})",
        "tool_call(x={1: 2})",
        "tool_call(x=b'1')",
        "tool_call(x=...)",
        "tool_call(x=1e999)",
        "tool_call(1, 2)",
        "tool_call(**[1])",
        "a.b(x=1)",
        "import os",
        "x = 1; tool_call(x=x)",
        "tool_call(x=1)\ntool_call(x=2)",
        "[" * 5000,
        "tool_call(x=" + "(" * 300 + ")" * 300 + ")",
        '{"a": ' * 300,
        '{"a": NaN}',
        "{'a': 1}",
        "[1, 2]",
        "lambda: 0",
        "",
        "\0",
        "tool_call(x='" + "a" * 70000 + "')",
        "tool_call(x=" + "9" * 5000 + ")",
    ],
)
def test_nothing_else_is_a_call(body):
    with pytest.raises(ValueError):
        read_arguments(body)


def test_text_and_call_in_one_reply(glm3):
    call = "```python\ntool_call(city='北京')\n```"
    reply = parse_reply(glm3, ids(glm3, "\n我查一下。", ASSISTANT, f"get_weather\n{call}", OBSERVATION))
    assert reply.content == "我查一下。"
    assert reply.tool_calls == [ToolCall("get_weather", {"city": "北京"})]
    two = parse_reply(glm3, ids(glm3, f"a\n{call}", ASSISTANT, f"b\n{call}", ASSISTANT, "\n好", ASSISTANT, "\n了"))
    assert [item.name for item in two.tool_calls] == ["a", "b"]
    assert two.content == "好\n了"


def test_code_of_the_interpreter_is_kept_as_text(glm3):
    reply = parse_reply(glm3, ids(glm3, "interpreter\n```python\nprint(1)\n```", OBSERVATION))
    assert reply.tool_calls == [ToolCall("interpreter", {"code": "```python\nprint(1)\n```"})]


@pytest.mark.parametrize(
    "text",
    ['OK\n{"a": 1}', "Python\n```python\nprint(1)\n```", "好的\nf(x)", "Answer\nmain()", "Yes\n", "1\n2\n3", "a\n```"],
)
@pytest.mark.parametrize("end", [EOS, USER, None])
def test_an_answer_is_no_call_where_no_tool_was_offered(glm3, text, end):
    stream = ReplyStream(glm3)
    shown = "".join(stream.push(index) for index in ids(glm3, text, *[end] * (end is not None)))
    shown += stream.finish()
    assert shown == stream.reply.content == text.strip()
    assert not stream.reply.tool_calls
    assert not stream.reply.faults


def test_an_answer_streams_as_soon_as_it_can_be_no_call(glm3):
    for opening, text in (("Answer\n", "is 42, not a call"), ("Code\n", "```python\nf()\n```\nThis prints 1")):
        stream = ReplyStream(glm3)
        shown = "".join(stream.push(index) for index in ids(glm3, opening + text))
        assert len(shown) > len(opening) + 3
    stream = ReplyStream(glm3, tools=["Answer"])
    assert "".join(stream.push(index) for index in ids(glm3, "Answer\nis 42, not a call")) == ""
    assert stream.finish() == "Answer\nis 42, not a call"
    assert stream.reply.faults


def test_a_thought_is_kept_apart(root):
    thinking = ChatGLM3Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"), chat_format="glm_z1")
    encode = thinking.vocabulary.encode
    whole = [*encode("\n先想一想。\n</think>\n\n答案是 4。"), thinking.get_command(USER)]
    reply = parse_reply(thinking, whole)
    assert (reply.reasoning, reply.content, reply.end) == ("先想一想。", "答案是 4。", "user")
    stream = ReplyStream(thinking)
    assert "".join(stream.push(index) for index in whole) == stream.reply.content
    stream, told = ReplyStream(thinking), ""
    for index in whole:  # a thought only grows, and has nothing of the mark that ends it, whose pieces come one by one
        stream.push(index)
        assert stream.reply.reasoning.startswith(told) and "<" not in stream.reply.reasoning
        told = stream.reply.reasoning
    assert told == "先想一想。"
    assert parse_reply(thinking, encode("\n1 </thi 2</th")).reasoning == "1 </thi 2</th"
    unfinished = parse_reply(thinking, encode("\n还在想"))
    assert (unfinished.reasoning, unfinished.content) == ("还在想", "")
    called = [*encode('\n查天气\n</think>\nget\n{"city": "北京"}'), thinking.get_command(OBSERVATION)]
    assert parse_reply(thinking, called, tools=["get"]).tool_calls == [ToolCall("get", {"city": "北京"})]
    assert parse_reply(thinking, called).content.startswith("get")


@pytest.mark.parametrize("name", ["资产查询", "get_weather", "погода", "get-weather.v2"])
def test_tools_are_named_in_any_script(glm3, name):
    call = ids(glm3, f"{name}\n", "```python\ntool_call(人员='张三')\n```", OBSERVATION)
    assert parse_reply(glm3, call).tool_calls == [ToolCall(name, {"人员": "张三"})]
    assert parse_reply(glm3, call[:-1], tools=[name]).tool_calls == [ToolCall(name, {"人员": "张三"})]
    spaced = ids(glm3, "查 资产\n", '{"a": 1}', EOS)
    assert parse_reply(glm3, spaced, tools=["查 资产"]).tool_calls == [ToolCall("查 资产", {"a": 1})]
    assert parse_reply(glm3, spaced).content == '查 资产\n {"a": 1}'


def test_a_reply_streams_as_it_comes(glm3):
    stream = ReplyStream(glm3)
    pieces = [stream.push(index) for index in ids(glm3, "\n", "你好，世界。 再见 ", EOS, "more")]
    assert "".join(pieces) == stream.reply.content == "你好，世界。 再见"
    assert sum(map(bool, pieces)) > 3
    stream = ReplyStream(glm3)
    assert "".join(stream.push(index) for index in ids(glm3, "get\n```python\ntool_call(a=1)\n```")) == ""
    assert stream.finish() == ""
    assert stream.reply.tool_calls == [ToolCall("get", {"a": 1})]
    assert stream.finish() == ""


def test_random_ids_never_raise_and_stream_what_is_parsed(glm2_vocab, glm3_vocab):
    glm2, glm3 = ChatGLM2Tokenizer(glm2_vocab), ChatGLM3Tokenizer(glm3_vocab)
    chance = random.Random(5)
    interesting = [
        0,
        1,
        2,
        13,
        30910,
        64790,
        *range(64789, 64800),
        65023,
        70000,
        -1,
        *glm3.encode("get\n```python\ntool_call(a='", add_special_tokens=False),
    ]
    for _ in range(10_000):
        row = [
            chance.choice(interesting) if chance.random() < 0.4 else chance.randrange(65024)
            for _ in range(chance.randrange(24))
        ]
        for tokenizer in (glm2, glm3):
            stream = ReplyStream(tokenizer)
            shown = "".join([stream.push(index) for index in row] + [stream.finish()])
            assert shown == stream.reply.content
            assert isinstance(tokenizer.decode(row), str)
