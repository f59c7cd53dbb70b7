"""What somebody typed: messages of several lines, and commands. Text in, text out; no terminal."""

from __future__ import annotations

from typing import Literal, NamedTuple

BOM = "\ufeff"  # before the first line of what some editors and PowerShell write
_QUOTES = '"""'
Name = Literal["clear", "stop", "save", "help", "retry", "edit", "stats"]
_WORDS: dict[str, Name] = {"clear": "clear", "stop": "stop", "exit": "stop", "quit": "stop"}
_SLASHED: dict[str, Name] = {
    **{f"/{word}": name for word, name in _WORDS.items()},
    **{"/help": "help", "/?": "help", "/retry": "retry", "/edit": "edit", "/stats": "stats"},
}
_SAVED = (".json", ".jsonl")


class Command(NamedTuple):
    """What is asked of the chat itself. `file` is that of `save`, `text` the new question of `edit`."""

    name: Name
    file: str = ""
    text: str = ""


class Typed(NamedTuple):
    """A message that is complete. What was quoted or has several lines is never a command."""

    text: str
    is_plain: bool

    @property
    def command(self) -> Command | None:
        """The command that this is: a word alone, with a slash or (`clear`, `stop`, `save`) without.

        `save` counts only with one file that ends in .json or .jsonl; `/edit` may be followed by a question.
        """
        words = self.text.split() if self.is_plain else []
        if len(words) == 1 and words[0] in {**_WORDS, **_SLASHED}:
            return Command({**_WORDS, **_SLASHED}[words[0]])
        if len(words) == 2 and words[0] in ("save", "/save") and words[1].endswith(_SAVED):
            return Command("save", words[1])
        if len(words) > 1 and words[0] == "/edit":
            return Command("edit", text=self.text.strip().removeprefix("/edit").strip())
        return None


class Lines:
    r"""Joins lines to messages: a line that ends with a backslash continues on the next; so does everything between
    two lines that begin and end with triple quotes. Two backslashes at the end are two backslashes.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._is_quoted = False

    @property
    def is_open(self) -> bool:
        """True while a message waits for its next line."""
        return self._is_quoted or bool(self._lines)

    def push(self, line: str) -> Typed | None:
        """The message that this line completes, None while it goes on."""
        if self._is_quoted:
            return self._quoted(line)
        if not self._lines and line.lstrip().startswith(_QUOTES):
            self._is_quoted = True
            return self._quoted(line.lstrip()[len(_QUOTES) :])
        trailing = len(line) - len(line.rstrip("\\"))
        if trailing % 2:
            self._lines.append(line[:-1])
            return None
        self._lines.append(line)
        return self._taken(is_plain=len(self._lines) == 1 and "\n" not in line)

    def flush(self) -> Typed | None:
        """What was begun, when no more lines come."""
        return self._taken(is_plain=False) if self._lines else None

    def drop(self) -> None:
        """Forgets what was begun."""
        self._lines, self._is_quoted = [], False

    def _quoted(self, line: str) -> Typed | None:
        if not line.rstrip().endswith(_QUOTES):
            self._lines.append(line)
            return None
        self._lines.append(line.rstrip()[: -len(_QUOTES)])
        typed = self._taken(is_plain=False)
        return Typed(typed.text.strip("\n"), False)

    def _taken(self, *, is_plain: bool) -> Typed:
        text = "\n".join(self._lines)
        self.drop()
        return Typed(text, is_plain)
