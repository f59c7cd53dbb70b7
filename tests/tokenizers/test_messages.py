"""Messages in their official form: tools of every kind, metadata, results, the code of the interpreter."""

import json

import pytest

from mindformers_glm.errors import GenerationError
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, Renderer, ToolCall, parse_reply
from mindformers_glm.tokenizers.messages import NULL, offered_tools, read_messages, said_with_calls

CODE = "```python\nimport math\nprint(math.sqrt(2))\n```"


@pytest.fixture(scope="module")
def glm3(root):
    return ChatGLM3Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


@pytest.fixture(scope="module")
def glm2(root):
    return ChatGLM2Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


def official(tokenizer, query, history, role="user"):
    """build_chat_input of the official ChatGLM3 tokenizer, from its description."""
    ids = tokenizer.get_prefix_tokens()
    for item in [*history, {"role": role, "content": query}]:
        content = item["content"]
        if item["role"] == "system" and "tools" in item:
            content += "\n" + json.dumps(item["tools"], indent=4, ensure_ascii=False)
        head = tokenizer.vocabulary.encode(f"{item.get('metadata', '')}\n")
        ids += [tokenizer.get_command(f"<|{item['role']}|>"), *head, *tokenizer.vocabulary.encode(content)]
    return [*ids, tokenizer.get_command("<|assistant|>")]


@pytest.mark.parametrize(
    "tools", [[], {}, None, "free text", '"quoted" 文', [{"name": "f", "说明": "查"}], {"f": {"a": 1}}, 0, False, [1]]
)
def test_tools_of_a_system_message_are_printed_as_the_official_code_prints_them(glm3, tools):
    history = [{"role": "system", "content": "S", "tools": tools}]
    assert glm3.build_chat_ids("x", history) == official(glm3, "x", history)


def test_metadata_of_every_role_is_kept(glm3):
    history = [
        {"role": role, "metadata": f"m{place}", "content": "x"}
        for place, role in enumerate(("system", "user", "assistant", "observation", "user"))
    ]
    assert glm3.build_chat_ids("q", history) == official(glm3, "q", history)
    assert glm3.build_chat_ids("q", history, "observation") == official(glm3, "q", history, "observation")


def test_an_empty_list_of_tools_opens_a_conversation_as_mindformers_does(glm3, glm2):
    messages = read_messages([{"role": "user", "content": "x"}], tools=[])
    assert [message.role for message in messages] == ["system", "user"]
    assert Renderer(glm3).text(Renderer(glm3).prompt(messages)).count("tools:\n[]<|user|>") == 1
    assert Renderer(glm2).prompt(messages) == Renderer(glm2).prompt([], "x")
    given = [{"role": "system", "content": "S", "tools": None}]
    assert read_messages(given)[0].tools is NULL
    assert read_messages(given, tools=[{"name": "f"}])[0].tools == [{"name": "f"}]


def test_null_means_absent_in_the_turns_of_training_data():
    result = {"role": "tool", "name": "now", "parameters": None, "observation": None, "content": "12:00", "loss": None}
    assert read_messages([result]) == read_messages([{"role": "tool", "content": "12:00"}])
    turn = {"role": "tool", "name": "now", "parameters": None, "observation": {"t": 12}}
    assert [message.content for message in read_messages([turn])] == ["```python\ntool_call()\n```", '{"t": 12}']
    assert read_messages([{"role": "assistant", "content": "x", "loss": None, "weight": 0}])[0].loss is False
    assert read_messages([{"role": "assistant", "content": "x", "loss": 0, "weight": 1}])[0].loss is False


@pytest.mark.parametrize("code", [CODE, "```python\nmain()\n```", "print(1)", "```\n1\n```", "tool_call(code='x')"])
def test_code_of_the_interpreter_is_neither_lost_nor_rewritten(glm3, code):
    ids = [*glm3.vocabulary.encode("interpreter\n"), *glm3.vocabulary.encode(code), glm3.get_command("<|observation|>")]
    reply = parse_reply(glm3, ids)
    assert reply.tool_calls == [ToolCall("interpreter", {"code": code})]
    past = [{"role": "user", "content": "q"}, said_with_calls(reply.content, reply.tool_calls)]
    written = [past[0], {"role": "assistant", "metadata": "interpreter", "content": code}]
    assert Renderer(glm3).prompt(json.loads(json.dumps(past)), "1", role="observation") == official(
        glm3, "1", written, "observation"
    )


def test_bare_code_of_another_source_gets_the_block_of_the_official_model(glm3):
    for arguments in ({"code": "print(1)"}, '{"code": "print(1)"}', "print(1)"):
        call = {"function": {"name": "interpreter", "arguments": arguments}}
        assert read_messages([{"role": "assistant", "tool_calls": [call]}])[0].content == "```python\nprint(1)\n```"
    turn = {"role": "tool", "name": "interpreter", "parameters": {"code": CODE}, "observation": "1.4"}
    assert read_messages([turn])[0].content == CODE


@pytest.mark.parametrize("body", ['```python\ntool_call(city="Rome", n=1)\n```', '{"city": "Rome"}', "tool_call()"])
def test_a_call_comes_back_as_it_was_written(glm3, body):
    ids = [*glm3.vocabulary.encode("get\n"), *glm3.vocabulary.encode(body), glm3.get_command("<|observation|>")]
    reply = parse_reply(glm3, ids)
    message = json.loads(json.dumps(said_with_calls(reply.content, reply.tool_calls)))
    assert read_messages([message])[0].content == body
    assert message["tool_calls"][0]["function"]["arguments"] == reply.tool_calls[0].arguments
    plain = said_with_calls("", [ToolCall("get", {"city": "Rome"}, "```python\ntool_call(city='Rome')\n```")])
    assert "written" not in plain["tool_calls"][0]


def test_names_of_offered_tools():
    tools = [{"name": "a"}, {"type": "function", "function": {"name": "资产查询"}}]
    assert offered_tools(read_messages([("q", "a")], tools=tools)) == {"a", "资产查询"}
    system = {"role": "system", "content": "", "tools": {"b": {}, "c": {}}}
    assert offered_tools(read_messages([system])) == {"b", "c"}
    for nothing in (None, [], "text", 5, [5]):
        assert offered_tools(read_messages([{"role": "system", "content": "", "tools": nothing}])) == set()


@pytest.mark.parametrize("content", [5, 1.5, b"x", {"text": "x"}, [1], [[{"role": "user", "content": "x"}]]])
def test_a_content_that_is_no_text_is_named(content):
    with pytest.raises(GenerationError, match="content: expected text, got"):
        read_messages([{"role": "user", "content": content}])
    with pytest.raises(GenerationError, match="every item must be a pair .* not 5"):
        read_messages([5])
