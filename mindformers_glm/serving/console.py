"""Standard input and output as a chat uses them: line editing, and what was typed in earlier sessions."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Protocol

from mindformers_glm.serving.interrupt import allowed
from mindformers_glm.serving.typed import BOM

_MOST_LINES = 2000  # of the history that are kept


class Console(Protocol):
    """Where questions come from and answers go. `is_interactive` is False for a pipe or file."""

    is_interactive: bool

    def read(self, prompt: str) -> str:
        """A line without its end. Raises EOFError at the end of input, KeyboardInterrupt on Ctrl-C."""

    def write(self, text: str) -> None:
        """Shows text at once."""


class StandardConsole:
    """Standard input and output. Only a terminal is shown prompts, and has line editing where readline exists.

    `history` is the file of what was typed in earlier sessions, read and continued on a terminal alone; None: no file.
    """

    def __init__(self, *, history: Path | None = None) -> None:
        for stream in (sys.stdin, sys.stdout):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        self.is_interactive = sys.stdin.isatty()
        self._readline: Any = None
        self._history = history if self.is_interactive else None
        if self.is_interactive:
            with contextlib.suppress(ImportError):  # not on every system
                import readline  # noqa: PLC0415 - changes what input() does

                self._readline = readline
        if self._readline is not None and self._history is not None:
            self._recall(self._history)

    @property
    def paints(self) -> bool:
        """Whether answers may be in colour: a terminal that shows it, and a user who does not forbid it (NO_COLOR)."""
        is_terminal = self.is_interactive and sys.stdout.isatty()
        return is_terminal and os.environ.get("TERM") not in (None, "dumb") and not os.environ.get("NO_COLOR")

    def read(self, prompt: str) -> str:
        """A line without its end."""
        with allowed():
            if self.is_interactive:
                return self._kept(input(prompt)).removeprefix(BOM)
            line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n").removeprefix(BOM)

    def edit(self, prompt: str, text: str) -> str | None:
        """The line as the user changed it; None where no line can be edited."""
        if self._readline is None or "\n" in text:
            return None
        self._readline.set_startup_hook(lambda: self._readline.insert_text(text))
        try:
            return self.read(prompt)
        finally:
            self._readline.set_startup_hook()

    def write(self, text: str) -> None:
        """Shows text at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def _recall(self, file: Path) -> None:
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
            self._readline.read_history_file(str(file))
            if self._readline.get_current_history_length() > _MOST_LINES:
                self._readline.set_history_length(_MOST_LINES)
                self._readline.write_history_file(str(file))
        except OSError:  # a home that cannot be written: the chat needs no history
            self._history = None

    def _kept(self, line: str) -> str:
        if line.strip() and self._readline is not None and self._history is not None:
            with contextlib.suppress(OSError):
                self._readline.append_history_file(1, str(self._history))
        return line


def history_file() -> Path:
    """Where the history of chats lies: below the user's folder for states (XDG_STATE_HOME)."""
    folder = os.environ.get("XDG_STATE_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path.home() / ".local" / "state"
    return base / "mindformers_glm" / "chat_history"
