"""Conversations over a scripted engine: history, tools, a full context, stopping, saving."""

from __future__ import annotations

import json

import pytest
from scripted_network import CALL, TOOLS, ScriptedNetwork, glm3_reply, words

from mindformers_glm.data.conversations import ConversationDataLoader
from mindformers_glm.errors import DataError, GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.serving.conversation import ContextFull, Conversation, chat_config, read_tools
from mindformers_glm.tokenizers import Renderer


def test_rounds_of_glm2(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "你好！"), 2])
    assert "".join(talk.ask("你好")) == "你好！"
    network.say([*words(glm2, "再见。"), 2])
    pieces = list(talk.ask("再见"))
    assert "".join(pieces) == "再见。"
    assert talk.messages == [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "再见"},
        {"role": "assistant", "content": "再见。"},
    ]
    assert talk.figures.end == "said"
    assert talk.figures.tokens == len(words(glm2, "再见。")) + 1
    prompt = Renderer(glm2).prompt([("你好", "你好！")], "再见")
    assert talk.figures.prompt_tokens == len(prompt)
    assert 0 < talk.figures.first_seconds <= talk.figures.seconds
    assert talk.figures.tokens_per_second > 0


def test_a_thought_is_told_apart_and_is_no_part_of_the_next_prompt(engine, network, thinking):
    told = []
    talk = Conversation(engine, thinking, on_thought=told.append)
    network.say(glm3_reply(thinking, "\n先想一想。\n</think>\n\n答案是四。"))
    assert "".join(talk.ask("二加二")) == "答案是四。"
    assert "".join(told) == "先想一想。" and len(told) > 1
    assert talk.messages[1] == {"role": "assistant", "content": "答案是四。", "reasoning_content": "先想一想。"}
    network.say(glm3_reply(thinking, "\n又想。\n</think>\n\n不客气。"))
    assert "".join(talk.ask("谢谢")) == "不客气。"
    plain = [{"role": "user", "content": "二加二"}, {"role": "assistant", "content": "答案是四。"}]
    prompt = Renderer(thinking).prompt([*plain, {"role": "user", "content": "谢谢"}])
    assert talk.figures.prompt_tokens == len(prompt)
    assert "想" not in thinking.decode(prompt)


def test_a_system_prompt_opens_every_prompt(engine, network, glm2):
    plain, told = Conversation(engine, glm2), Conversation(engine, glm2, system="写广告。")
    for talk in (plain, told):
        network.say([2])
        list(talk.ask("你好"))
    assert told.figures.prompt_tokens > plain.figures.prompt_tokens


def test_a_tool_is_called_and_answered(engine, network, glm3):
    talk = Conversation(engine, glm3, tools=TOOLS)
    network.say(glm3_reply(glm3, CALL, "<|observation|>"))
    assert "".join(talk.ask("北京天气")) == ""
    assert [(call.name, call.arguments) for call in talk.calls] == [("weather", {"city": "北京"})]
    network.say(glm3_reply(glm3, "\n 晴天。"))
    assert "".join(talk.give_results(["晴"])) == "晴天。"
    assert talk.calls == []
    roles = [message["role"] for message in talk.messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
    ids = Renderer(glm3).prompt(talk.messages[:3], tools=TOOLS)
    assert ids.count(glm3.get_command("<|observation|>")) == 1
    assert talk.figures.prompt_tokens == len(ids)


def test_results_are_as_many_as_calls(engine, glm3):
    with pytest.raises(GenerationError, match="0 calls wait for a result, 1 were given"):
        Conversation(engine, glm3).give_results(["?"])


def test_a_call_that_cannot_be_read_is_told(engine, network, glm3):
    talk = Conversation(engine, glm3, tools=TOOLS)
    network.say(glm3_reply(glm3, "weather\n```python\nimport os\n```"))
    assert "import os" in "".join(talk.ask("?"))
    assert len(talk.faults) == 1
    assert talk.calls == []


def test_glm2_refuses_tools_before_the_first_question(engine, glm2):
    with pytest.raises(GenerationError, match="ChatGLM2 knows no tools"):
        Conversation(engine, glm2, tools=TOOLS)


def test_a_full_context_is_an_error_that_keeps_the_conversation(glm2):
    network = ScriptedNetwork(max_length=40)
    engine = Engine(network, defaults=GenerationConfig(max_length=40, eos_token_id=2))
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "好"), 2])
    list(talk.ask("你好"))
    before = list(talk.messages)
    with pytest.raises(ContextFull, match=r"seq_length is 40.*Type clear") as caught:
        talk.ask("很长" * 40)
    assert caught.value.limit == 40 < caught.value.tokens
    assert talk.messages == before
    network.say(words(glm2, "好") * 60)
    list(talk.ask("再"))
    assert talk.figures.end == "context"
    assert talk.figures.prompt_tokens + talk.figures.tokens == 40
    with pytest.raises(ContextFull):
        talk.ask("?")
    talk.clear()
    network.say([2])
    list(talk.ask("你好"))
    engine.close()


def test_a_reply_ends_at_max_new_tokens(engine, network, glm2):
    talk = Conversation(engine, glm2, chat_config(engine, max_new_tokens=3))
    network.say(words(glm2, "一二三四五六七八"))
    list(talk.ask("?"))
    assert (talk.figures.tokens, talk.figures.end) == (3, "length")


def test_a_stopped_reply_keeps_what_was_shown(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say(words(glm2, "一二三四五六七八九十"))
    pieces = talk.ask("数数")
    shown = next(pieces) + next(pieces)
    pieces.close()
    assert talk.figures.end == "stopped"
    assert talk.messages[-1] == {"role": "assistant", "content": shown}


def test_a_question_without_a_word_of_reply_is_taken_back(engine, network, glm2):
    talk = Conversation(engine, glm2)

    def fail(place):
        raise RuntimeError("no memory")

    pieces = talk.ask("?")
    network.hook = fail
    with pytest.raises(RuntimeError, match="no memory"):
        next(pieces)
    assert talk.messages == []
    assert not talk.figures.is_kept


def test_the_saved_file_is_what_training_reads(engine, network, glm3, tmp_path):
    talk = Conversation(engine, glm3, system="You help.", tools=TOOLS)
    network.say(glm3_reply(glm3, CALL, "<|observation|>"))
    list(talk.ask("北京天气"))
    network.say(glm3_reply(glm3, "\n 晴天。"))
    list(talk.give_results(["晴"]))
    for name in ("talk.json", "talk.jsonl"):
        talk.save(tmp_path / name)
        (row,) = ConversationDataLoader(str(tmp_path / name), shuffle=False).rows
        assert [message.role for message in row.messages] == [
            "system", "user", "assistant", "observation", "assistant",
        ]  # fmt: skip
        assert row.messages[0].tools == TOOLS
        assert row.messages[2].metadata == "weather"
        assert Renderer(glm3).prompt(row.messages) == Renderer(glm3).prompt(
            talk.messages, system="You help.", tools=TOOLS
        )
    assert (tmp_path / "talk.jsonl").read_text().count("\n") == 1


def test_a_place_that_cannot_be_written_is_told(engine, glm2, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        Conversation(engine, glm2).save(tmp_path / "file" / "talk.json")


def test_options_that_sample(engine):
    assert chat_config(engine).greedy
    assert chat_config(engine).max_length == 512
    assert chat_config(engine, temperature=0, top_p=0.5).greedy
    sampled = chat_config(engine, temperature=0.6)
    assert (sampled.do_sample, sampled.temperature, sampled.top_p, sampled.top_k) == (True, 0.6, 0.8, 50)
    assert chat_config(engine, top_k=3).top_k == 3
    with pytest.raises(GenerationError, match="top_p"):
        chat_config(engine, top_p=2)


def test_a_seed_moves_with_the_conversation(engine, network, glm2):
    talk = Conversation(engine, glm2, chat_config(engine, seed=7))
    assert talk.turn_config().seed == 7
    network.say([*words(glm2, "好"), 2])
    list(talk.ask("?"))
    assert talk.turn_config().seed == 9
    talk.clear()
    assert talk.turn_config().seed == 7


def test_tools_from_a_file(tmp_path):
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(TOOLS), encoding="utf-8")
    assert read_tools(file) == TOOLS
    for text, fault in (("{", "not JSON"), ("3", "expected a list"), ("[]", "expected a list")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=fault):
            read_tools(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_tools(tmp_path / "none.json")
