"""The terminal chat with a console made of lists: what is asked, shown, stopped and refused."""

from __future__ import annotations

import io
import json

import pytest
from scripted_network import CALL, TOOLS, ScriptedNetwork, glm3_reply, words
from waiting import until

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.serving.conversation import Conversation
from mindformers_glm.serving.phrases import CHINESE, ENGLISH
from mindformers_glm.serving.terminal import StandardConsole, TerminalChat

END = EOFError()
CTRL_C = KeyboardInterrupt()


class ListConsole:
    """Gives lines, raises exceptions, calls functions (and goes on) from a list; keeps what was shown."""

    def __init__(self, *items, is_interactive: bool = True) -> None:
        self.items, self.is_interactive = list(items), is_interactive
        self.shown = ""
        self.prompts: list[str] = []

    def read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        self.shown += prompt if self.is_interactive else ""
        item = self.items.pop(0) if self.items else END
        if callable(item):
            item()
            item = self.items.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item

    def write(self, text: str) -> None:
        self.shown += text


def chat(conversation, *items, **options) -> ListConsole:
    console = ListConsole(*items, is_interactive=options.pop("is_interactive", True))
    conversation.warm_up = lambda: None  # the script is for the questions
    TerminalChat(conversation, console, **options).run()
    assert not console.items
    return console


def test_a_greeting(engine, network, glm2):
    network.say([*words(glm2, "你好！"), 2])
    console = chat(Conversation(engine, glm2), "你好", "stop", model="glm2_tiny")
    assert console.shown.startswith("glm2_tiny：")
    assert console.shown.endswith("问：答：你好！\n问：")


def test_a_thought_stands_before_the_answer(engine, network, thinking, capsys):
    script = glm3_reply(thinking, "\n先想一想。\n</think>\n\n答案是四。")
    network.say(script)
    console = chat(Conversation(engine, thinking), "二加二", "stop")
    assert console.shown.endswith("问：思考：先想一想。\n答：答案是四。\n问：")
    network.say(script)
    console = chat(Conversation(engine, thinking), "二加二", "stop", is_interactive=False)
    assert console.shown == "答：答案是四。\n"
    assert capsys.readouterr().err == "思考：先想一想。\n"
    network.say(words(thinking, "\n还在想"))
    shown = chat(Conversation(engine, thinking), "二加二", "stop", phrases=ENGLISH).shown
    assert "Input: Thought: 还在想\n" in shown and "Output" not in shown


def test_english_prompts_and_figures(engine, network, glm2):
    network.say([*words(glm2, "Hello"), 2])
    console = chat(Conversation(engine, glm2), "hi", "stop", phrases=ENGLISH, shows_figures=True)
    answer = console.shown.partition("Input: ")[2]
    assert answer.startswith("Output: Hello\n[prompt ")
    assert "tokens/s, context " in answer and " of 512]" in answer


def test_lines_are_joined_and_blank_ones_passed_over(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "好"), 2])
    console = chat(talk, "", "   ", "one\\", "two", "stop")
    assert talk.messages[0]["content"] == "one\ntwo"
    assert console.prompts == [CHINESE.question] * 3 + [CHINESE.more, CHINESE.question]


def test_a_quoted_command_is_a_message(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "好"), 2])
    chat(talk, '"""stop"""', "stop")
    assert talk.messages[0]["content"] == "stop"


def test_clear_forgets(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "好"), 2])
    console = chat(talk, "你好", "clear", "stop")
    assert talk.messages == []
    assert CHINESE.cleared in console.shown


def test_a_stopped_answer_does_not_end_the_chat(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say(words(glm2, "一二三四五六七八九十") * 30)
    network.hook = lambda place: talk.stop() if place == 20 else None
    console = chat(talk, "数数", "stop")
    assert "（已停止）" in console.shown
    said = talk.messages[1]["content"]
    assert said and len(said) < 300
    assert f"答：{said}\n" in console.shown


def test_a_stop_before_the_first_word_takes_the_question_back(engine, network, glm2, monkeypatch):
    talk = Conversation(engine, glm2)
    network.say(glm2.vocabulary.encode("😀")[-4:-1])  # three of the four bytes of a character
    tickets, submit = [], engine.submit
    monkeypatch.setattr(engine, "submit", lambda *a, **k: tickets.append(submit(*a, **k)) or tickets[-1])

    def stopped():
        talk.stop()  # does nothing before the conversation knows its ticket
        return tickets and tickets[0].is_cancelled

    network.hook = lambda place: until(stopped)
    console = chat(talk, "你好", "stop")
    assert CHINESE.taken_back in console.shown
    assert talk.messages == []


def test_a_stopped_answer_ends_a_pipe(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say(words(glm2, "一二三四五六七八九十") * 30)
    network.hook = lambda place: talk.stop() if place == 20 else None
    with pytest.raises(KeyboardInterrupt):
        chat(talk, "数数", is_interactive=False)


def test_ctrl_c_twice_at_the_prompt_ends(engine, network, glm2):
    network.say([*words(glm2, "好"), 2])
    console = chat(Conversation(engine, glm2), CTRL_C, "你好", CTRL_C, CTRL_C)
    assert console.shown.count(CHINESE.leaving) == 2


def test_ctrl_c_drops_a_message_that_was_begun(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "好"), 2])
    chat(talk, '"""one', CTRL_C, "two", "stop")
    assert talk.messages[0]["content"] == "two"


def test_ctrl_d_ends(engine, glm2):
    console = chat(Conversation(engine, glm2), END)
    assert console.shown.endswith("问：\n")


def test_a_full_context_says_what_to_do(glm2):
    network = ScriptedNetwork(max_length=30)
    engine = Engine(network, defaults=GenerationConfig(max_length=30, eos_token_id=2))
    for phrases, told in ((CHINESE, "输入 clear 重新开始"), (ENGLISH, "Type clear to begin anew")):
        console = chat(Conversation(engine, glm2), "很长" * 40, "stop", phrases=phrases)
        assert told in console.shown
        assert "30" in console.shown
    network.say(words(glm2, "好") * 60)
    console = chat(Conversation(engine, glm2), "你好", "stop")
    assert "（上下文已满，共 30 个 token" in console.shown
    with pytest.raises(GenerationError, match="Type clear"):
        chat(Conversation(engine, glm2), "很长" * 40, is_interactive=False)
    engine.close()


def test_a_tool_is_shown_and_its_result_asked_for(engine, network, glm3):
    talk = Conversation(engine, glm3, tools=TOOLS)
    network.say(glm3_reply(glm3, CALL, "<|observation|>"))
    console = chat(talk, "北京天气", lambda: network.say(glm3_reply(glm3, "\n 晴天。")), "晴\\", "25度", "stop")
    assert '调用 weather {"city": "北京"}\nweather 的结果：' in console.shown
    assert "答：晴天。\n" in console.shown
    assert talk.messages[2] == {"role": "tool", "content": "晴\n25度"}


@pytest.mark.parametrize(("item", "left"), [("stop", 2), (END, 2), (CTRL_C, 2), ("clear", 0)])
def test_a_result_may_be_refused(engine, network, glm3, item, left):
    talk = Conversation(engine, glm3, tools=TOOLS)
    network.say(glm3_reply(glm3, CALL, "<|observation|>"))
    console = chat(talk, "北京天气", item, *(["stop"] if item in (CTRL_C, "clear") else []))
    assert len(talk.messages) == left
    assert (CHINESE.no_result in console.shown) == (item is CTRL_C)


def test_save_writes_and_never_replaces_a_foreign_file(engine, network, glm2, tmp_path):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "好"), 2])
    mine, foreign = tmp_path / "talk.json", tmp_path / "data.json"
    foreign.write_text("[1]")
    console = chat(talk, "你好", f"save {mine}", f"save {mine}", f"save {foreign}", "stop")
    assert console.shown.count(CHINESE.saved.format(file=mine)) == 2
    assert CHINESE.exists.format(file=foreign) in console.shown
    assert foreign.read_text() == "[1]"
    assert json.loads(mine.read_text(encoding="utf-8")) == [{"messages": talk.messages}]


def test_a_pipe_gets_answers_and_no_prompts(engine, network, glm2, capsys):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "好"), 2])
    console = chat(talk, "你好\\", is_interactive=False, shows_figures=True)
    assert console.shown == "答：好\n"
    assert talk.messages[0]["content"] == "你好"
    assert capsys.readouterr().err.startswith("[prompt ")


def test_characters_are_never_broken(engine, network, glm2):
    text = "表情😀与汉字"
    pieces = [glm2.vocabulary.encode(text)]
    assert any(glm2.vocabulary.bytes_of(index) is not None for index in pieces[0])  # the face is four bytes
    console = ListConsole("?", "stop")
    parts: list[str] = []
    console.write = parts.append
    network.say([*pieces[0], 2])
    talk = Conversation(engine, glm2)
    talk.warm_up = lambda: None
    TerminalChat(talk, console).run()
    assert "".join(parts).count(text) == 1
    assert not any("\ufffd" in part for part in parts)


def test_the_mark_before_piped_text_is_no_part_of_it(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffstop\n\ufeff你好\n"))
    console = StandardConsole()
    assert [console.read(""), console.read("")] == ["stop", "你好"]


def test_help_lists_the_commands(engine, network, glm2):
    for phrases in (CHINESE, ENGLISH):
        console = chat(Conversation(engine, glm2), "/help", "/stop", phrases=phrases)
        assert all(word in console.shown for word in ("/retry", "/edit", "/clear", "/save", "/stats", "/stop"))


def test_an_answer_is_given_again(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "红色"), 2])
    console = chat(talk, "/retry", "颜色", lambda: network.say([*words(glm2, "蓝色"), 2]), "/retry", "stop")
    assert CHINESE.nothing in console.shown and CHINESE.same in console.shown
    assert [message["content"] for message in talk.messages] == ["颜色", "蓝色"]


def test_a_retry_with_a_seed_draws_anew(engine, network, glm2):
    talk = Conversation(engine, glm2, GenerationConfig(do_sample=True, seed=1, max_length=200, eos_token_id=2))
    network.say([*words(glm2, "红色"), 2])
    before = talk.turn_config().seed
    console = chat(talk, "颜色", lambda: network.say([*words(glm2, "蓝色"), 2]), "/retry", "stop")
    assert CHINESE.same not in console.shown
    assert talk.take_back() == "颜色" and talk.messages == []
    assert talk.turn_config().seed != before
    talk.clear()
    assert talk.turn_config().seed == before and talk.take_back() is None


def test_a_question_is_changed(engine, network, glm2):
    talk = Conversation(engine, glm2)
    network.say([*words(glm2, "红色"), 2])
    console = chat(talk, "颜色", "/edit", lambda: network.say([*words(glm2, "短裙"), 2]), "/edit 哪种 裙子", "stop")
    assert CHINESE.cannot_edit in console.shown  # this console edits no lines
    assert [message["content"] for message in talk.messages] == ["哪种 裙子", "短裙"]


def test_a_console_that_edits_offers_the_question(engine, network, glm2):
    talk = Conversation(engine, glm2)
    talk.warm_up = lambda: None
    network.say([*words(glm2, "红色"), 2])
    console = ListConsole("颜色", "/edit", lambda: network.say([*words(glm2, "短裙"), 2]), "/edit", "stop")
    answers = [CTRL_C, "什么裙子"]
    offered = []

    def edit(prompt, text):
        offered.append((prompt, text))
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    console.edit = edit
    TerminalChat(talk, console).run()
    assert offered == [(CHINESE.edit, "颜色")] * 2
    assert [message["content"] for message in talk.messages] == ["什么裙子", "短裙"]


def test_a_retry_takes_a_call_back_with_its_result(engine, network, glm3):
    talk = Conversation(engine, glm3, tools=TOOLS)
    network.say(glm3_reply(glm3, CALL, "<|observation|>"))
    again = glm3_reply(glm3, "\n 不知道。")
    chat(talk, "北京天气", lambda: network.say(glm3_reply(glm3, "\n 晴天。")), "晴", lambda: network.say(again),
         "/retry", "stop")  # fmt: skip
    assert [message["role"] for message in talk.messages] == ["user", "assistant"]


def test_figures_are_switched_and_speak_the_language(engine, network, glm2):
    network.say([*words(glm2, "好"), 2])
    console = chat(Conversation(engine, glm2), "/stats", "你好", "/stats", "stop")
    assert CHINESE.shows_figures in console.shown and CHINESE.hides_figures in console.shown
    assert "[提示 " in console.shown and " 词元/秒，上下文 " in console.shown


def test_code_is_in_colour_where_the_console_shows_it(engine, network, glm2):
    text = "看：\n```\nx\n```"
    for paints in (False, True):
        talk = Conversation(engine, glm2)
        talk.warm_up = lambda: None
        network.say([*glm2.vocabulary.encode(text), 2])
        console = ListConsole("?", "stop")
        console.paints = paints
        TerminalChat(talk, console).run()
        assert ("\x1b[36m" in console.shown) is paints
        assert "x\n" in console.shown
