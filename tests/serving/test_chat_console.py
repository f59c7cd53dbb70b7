"""The chat's console on a real terminal: history across sessions, a line that is edited, colours."""

from __future__ import annotations

import os
import pty
import select
import stat
import sys
import time
from pathlib import Path

import pytest

from mindformers_glm.serving.console import StandardConsole, history_file

pytest.importorskip("readline")
PROGRAM = """
import sys
from pathlib import Path
from mindformers_glm.serving.console import StandardConsole
console = StandardConsole(history=Path(sys.argv[1]) if sys.argv[1] else None)
print("paints", console.paints, flush=True)
print("got", repr(console.read("> ")), flush=True)
print("got", repr(console.edit("change: ", "red skirt")), flush=True)
"""


def session(tmp_path: Path, keys: list[bytes], *, history: str, environment: dict[str, str] | None = None) -> str:
    """What a terminal shows of the program; a string of keys for each prompt."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm", "INPUTRC": "/dev/null", **(environment or {})})
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, history])
    shown, waiting, deadline = "", list(keys), time.monotonic() + 60
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        try:
            shown += os.read(terminal, 4096).decode() if ready else ""
        except OSError:  # the program has ended
            break
        prompts = shown.count("> ") + shown.count("change: ")
        if waiting and prompts > len(keys) - len(waiting):
            os.write(terminal, waiting.pop(0))
    os.close(terminal)
    os.waitpid(pid, 0)
    return shown


def test_what_was_typed_comes_back_in_the_next_session(tmp_path):
    file = tmp_path / "state" / "chat_history"
    shown = session(tmp_path, [b"first question\n", b"\n"], history=str(file))
    assert "got 'first question'" in shown and "got 'red skirt'" in shown and "paints True" in shown
    assert file.read_text().splitlines()[-2:] == ["first question", "red skirt"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = session(tmp_path, [b"\x1b[A\x1b[A\n", b" long\n"], history=str(file), environment={"NO_COLOR": "1"})
    assert "got 'first question'" in shown and "got 'red skirt long'" in shown and "paints False" in shown


def test_without_a_history_nothing_is_written(tmp_path):
    shown = session(tmp_path, [b"one\n", b"\n"], history="")
    assert "got 'one'" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_has_no_history(tmp_path, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        console = StandardConsole(history=tmp_path / "history")
        assert not console.is_interactive and not console.paints
        assert console.edit("> ", "text") is None
    assert list(tmp_path.iterdir()) == []


def test_the_history_lies_in_the_folder_for_states(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/states")
    assert history_file() == Path("/states/mindformers_glm/chat_history")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert history_file() == Path.home() / ".local/state/mindformers_glm/chat_history"
