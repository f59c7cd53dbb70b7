"""What is said to people in English and in Chinese: the catalogue is complete, and lines find their message in it."""

from __future__ import annotations

import string

import pytest

from mindformers_glm import messages
from mindformers_glm.cli.commands import COMMANDS
from mindformers_glm.cli.console import main
from mindformers_glm.cli.report import report
from mindformers_glm.errors import CheckpointError, ConfigError, ConfigErrors, DataError, GenerationError
from mindformers_glm.messages import CATALOGUE, language, po, say, told
from mindformers_glm.messages.matching import Matcher
from tools import messages as source

pytestmark = pytest.mark.usefixtures("no_collection")
UNSAID = {"verb", "them"}  # values that are English words of the sentence: Chinese has its own, or none


@pytest.fixture
def chinese(monkeypatch):
    monkeypatch.setenv("MINDFORMERS_GLM_LANG", "zh")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_message_has_a_chinese_text():
    found = source.messages()
    entries = {entry.text: entry for entry in po.read(CATALOGUE)}
    assert sorted(set(found) - set(entries)) == [], "python -m tools.messages, and give each its Chinese text"
    assert sorted(set(entries) - set(found)) == [], "python -m tools.messages takes them out"
    assert [text for text, entry in entries.items() if entry.is_shown and not entry.translated] == []


def test_the_catalogue_reads_as_it_was_written():
    entries = po.read(CATALOGUE)
    assert po.written(entries) == CATALOGUE.read_text(encoding="utf-8")
    assert len({entry.text for entry in entries}) == len(entries) > 1000


def test_placeholders_agree():
    wrong = [e.text for e in po.read(CATALOGUE) if e.is_shown and (fields(e.translated) ^ fields(e.text)) - UNSAID]
    assert wrong == []


def test_a_text_ends_as_its_message_does():
    wrong = [
        entry.text for entry in po.read(CATALOGUE)
        if entry.is_shown and entry.translated.endswith("。") and not entry.text.endswith((".", ".)"))
    ]  # fmt: skip
    assert wrong == []
    latin = set("abcdefghijklmnopqrstuvwxyz")
    english = [e.text for e in po.read(CATALOGUE) if e.is_shown and e.translated == e.text and set(e.text) & latin]
    assert english == ["pip install mindformers_glm."] or english == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "C", "LANGUAGE": "zh_CN:en"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "MINDFORMERS_GLM_LANG": "en"}, "en"),
        ({"MINDFORMERS_GLM_LANG": "zh"}, "zh"),
        ({"MINDFORMERS_GLM_LANG": "zh-CN"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "MINDFORMERS_GLM_LANG": "fr"}, "zh"),
    ],
)
def test_the_language(environment, expected):
    assert language(environment) == expected


def test_an_option_wins_over_the_environment(chinese):
    messages.choose("en")
    try:
        assert language() == "en"
        assert told("There is no such file. Check the path.") == "There is no such file. Check the path."
    finally:
        messages.choose(None)
    assert language() == "zh"


def test_english_is_left_as_it_is():
    assert told("There is no such file. Check the path.") == "There is no such file. Check the path."
    assert say("error: {line}", line="x") == "error: x"


def test_lines_find_their_message(chinese):
    assert told("There is no such file. Check the path.") == "没有这个文件，请检查路径。"
    assert told("Unknown key. Did you mean epochs?") == "未知的键。是不是想写 epochs？"
    assert told("got 'x', give a whole number from 1 to 9") == "得到 'x'，请给出从 1 到 9 的整数"
    assert told("  nothing of ours  ") == "  nothing of ours  "
    assert told("{} of {0}") == "{} of {0}"
    assert told("summary is blank; content is not text but 5") == "summary 为空；content 不是文本，而是 5"


def test_values_are_never_read_as_messages_to_fill():
    catalogue = Matcher({"{name} is blank": "{name} 为空", "no {what} there": "那里没有 {what}"})
    assert catalogue.told("{what} is blank") == "{what} 为空"
    assert catalogue.told("no a is blank there") == "那里没有 a 为空"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ConfigError("runner_config.epochs", 0, "Use a whole number of 1 or more."),
            "runner_config.epochs：当前值为 0。请使用整数，不小于 1。",
        ),
        (
            DataError("a.json:3", "summary is blank", "Repair the line, or write the table again with a csv library"),
            "a.json:3：summary 为空。请修复该行，或用 csv 库重新写出表格",
        ),
        (
            CheckpointError("x.ckpt", "it holds no tensors", "Give a file of weights."),
            "x.ckpt：其中没有张量。请给出权重文件。",
        ),
        (GenerationError("prompt 3 is empty. Give at least one id"), "第 3 条提示词是空的。请至少给出一个 id"),
        (
            ConfigErrors("a.yaml", [ConfigError("a", 1, "Use a number."), ConfigError("b", "x", "Use True or False.")]),
            "a.yaml：2 处错误\n  a：当前值为 1。请用数。\n  b：当前值为 'x'。请用 True 或 False。",
        ),
    ],
)
def test_errors_are_told_in_chinese(chinese, error, expected):
    assert error.line() == expected


def test_a_command_refuses_in_chinese(chinese, capsys):
    def fails():
        raise ConfigError("--config", "x.yaml", "There is no such file. Check the path.")

    assert report(fails) == 2
    assert capsys.readouterr().err == "错误：--config：当前值为 'x.yaml'。没有这个文件，请检查路径。\n"
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("错误：'trian' 不是 mindformers-glm 的命令。")


def test_help_is_chinese_down_to_every_option(chinese, capsys):
    assert main(["--help"]) == 0
    told_all = capsys.readouterr().out
    assert told_all.startswith("用法：") and "在终端里与模型对话" in told_all
    for name in COMMANDS:
        assert COMMANDS[name].help not in told_all, name
    for name in ("chat", "serve", "evaluate", "convert", "quantize", "plan"):
        with pytest.raises(SystemExit):
            COMMANDS[name].parser().parse_args(["--help"])
        out = capsys.readouterr().out
        assert out.startswith("用法：") and "选项:" in out and "显示帮助并退出" in out, name
    with pytest.raises(SystemExit):
        COMMANDS["convert"].parser().parse_args([])
    assert "错误：缺少必需的参数：--input_path" in capsys.readouterr().err
