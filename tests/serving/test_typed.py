"""Lines that become messages, and words that are commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_glm.serving.typed import Command, Lines, Typed


def messages(*lines: str) -> list[Typed]:
    joined = Lines()
    found = [typed for line in lines if (typed := joined.push(line)) is not None]
    assert not joined.is_open
    return found


def test_a_line_is_a_message():
    assert messages("你好", "再见") == [Typed("你好", True), Typed("再见", True)]


def test_a_backslash_continues():
    assert messages("one\\", "two\\", "three") == [Typed("one\ntwo\nthree", False)]
    assert messages("stop\\", "") == [Typed("stop\n", False)]


def test_two_backslashes_are_text():
    assert messages("a \\\\") == [Typed("a \\\\", True)]
    assert messages("a \\\\\\", "b") == [Typed("a \\\\\nb", False)]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (('"""one', 'two"""'), "one\ntwo"),
        (('"""', "one\\", "", "two", '"""'), "one\\\n\ntwo"),
        (('  """stop"""',), "stop"),
        (('""""""',), ""),
        (('"""a', 'b """ c', '"""  '), 'a\nb """ c'),
    ],
)
def test_triple_quotes_hold_lines_together(lines, text):
    assert messages(*lines) == [Typed(text, False)]


def test_quotes_inside_a_line_are_text():
    assert messages('say """') == [Typed('say """', True)]


def test_what_was_begun_can_be_sent_or_dropped():
    lines = Lines()
    assert lines.push("one\\") is None
    assert lines.is_open
    assert lines.flush() == Typed("one", False)
    assert lines.flush() is None
    lines.push('"""two')
    lines.drop()
    assert not lines.is_open
    assert lines.push("three") == Typed("three", True)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("clear", Command("clear")),
        (" stop ", Command("stop")),
        ("exit", Command("stop")),
        ("quit", Command("stop")),
        ("save talk.json", Command("save", "talk.json")),
        ("save a/b.jsonl", Command("save", "a/b.jsonl")),
        ("save money", None),
        ("save", None),
        ("stop it", None),
        ("Clear", None),
        ("", None),
    ],
)
def test_commands(text, command):
    assert Typed(text, True).command == command
    assert Typed(text, False).command is None


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"])), max_size=6))
def test_any_lines_end_in_messages(lines):
    joined = Lines()
    for line in lines:
        joined.push(line)
    joined.flush()
    assert joined.push("stop") is not None or joined.is_open


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("/help", Command("help")),
        ("/retry", Command("retry")),
        ("/edit", Command("edit")),
        ("/edit  what colour? ", Command("edit", text="what colour?")),
        ("/stats", Command("stats")),
        ("/clear", Command("clear")),
        ("/exit", Command("stop")),
        ("/save talk.json", Command("save", "talk.json")),
        ("help", None),
        ("/retry now", None),
        ("/etc/passwd", None),
        ("/", None),
    ],
)
def test_commands_with_a_slash(line, command):
    assert Typed(line, True).command == command
    assert Typed(line, False).command is None
