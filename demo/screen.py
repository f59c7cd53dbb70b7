"""What the demo shows: headings, wrapped Chinese text, a table, a line that is written again and again."""

from __future__ import annotations

import os
import sys
import unicodedata

WIDTH = 78
_BLOCKS = "▁▂▃▄▅▆▇█"
_MARKS = "，。！？、：；,.!?"


def is_terminal() -> bool:
    """Whether a person is watching."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str) -> str:
    """The text in a colour (an ANSI code) on a terminal, as it is elsewhere."""
    return f"\x1b[{code}m{text}\x1b[0m" if is_terminal() and "NO_COLOR" not in os.environ else text


def heading(text: str) -> None:
    """A rule with a title."""
    print(flush=True)
    print(paint(f"── {text} ".ljust(WIDTH - _extra(text), "─"), "1;36"), flush=True)


def note(text: str) -> None:
    """An indented paragraph."""
    for line in wrap(text, WIDTH - 4):
        print(f"   {line}", flush=True)


def quote(text: str) -> None:
    """A text the model or the data says."""
    for line in wrap(text, WIDTH - 7):
        print(f"   {paint('│', '36')} {line}", flush=True)


class Typing:
    """A quoted text that arrives in pieces; whole lines where nobody watches."""

    def __init__(self) -> None:
        self.text, self.column = "", 0

    def add(self, piece: str) -> None:
        """Shows the next piece."""
        self.text += piece
        if not is_terminal():
            return
        for mark in piece:
            if self.column == 0 or (self.column >= WIDTH - 7 and mark not in _MARKS):
                print(("\n" if self.column else "") + f"   {paint('│', '36')} ", end="")
                self.column = 0
            print(mark, end="", flush=True)
            self.column += cells(mark)

    def end(self) -> None:
        """Closes the text."""
        if is_terminal():
            print(flush=True)
        else:
            quote(self.text)


class Line:
    """One line that shows progress: rewritten on a terminal, printed once at the end elsewhere."""

    def __init__(self) -> None:
        self.text = ""

    def show(self, text: str) -> None:
        """Replaces the line."""
        self.text = text
        if is_terminal():
            print(f"\r\x1b[K   {text}", end="", flush=True)

    def end(self, text: str | None = None) -> None:
        """Leaves the last text, or another, standing."""
        text = self.text if text is None else text
        print(f"\r\x1b[K   {text}" if is_terminal() else f"   {text}", flush=True)


def curve(values: list[float], width: int = 24) -> str:
    """Values as a row of blocks, the highest full."""
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join(_BLOCKS[round((value - low) / ((high - low) or 1) * (len(_BLOCKS) - 1))] for value in means)


def table(head: list[str], rows: list[list[str]], *, best: int = -1) -> None:
    """Columns, the first to the left and the others to the right; row `best` (from 0, the last) stands out."""
    best = best % len(rows)
    widths = [max(cells(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for number, row in enumerate([head, *rows]):
        padded = [_pad(cell, width, left=i == 0) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print(
            "   " + paint("   ".join(padded), "2" if number == 0 else "1;32" if number == best + 1 else "0"), flush=True
        )


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells; Chinese breaks anywhere but before a mark, other text between words."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in _words(paragraph):
            if cells(line) + cells(word) > width and word not in _MARKS:
                lines.append(line.rstrip())
                line = word.lstrip()
            else:
                line += word
        lines.append(line.rstrip())
    return lines


def _words(text: str) -> list[str]:
    words, word = [], ""
    for mark in text:
        if cells(mark) == 2 or mark == " ":
            words += [word, mark] if word else [mark]
            word = ""
        else:
            word += mark
    return [*words, word] if word else words


def cells(text: str) -> int:
    """Columns that a text takes on a terminal: wide characters take two."""
    return len(text) + _extra(text)


def _extra(text: str) -> int:
    return sum(unicodedata.east_asian_width(mark) in "WF" for mark in text)


def _pad(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cells(text))
    return text + space if left else space + text
