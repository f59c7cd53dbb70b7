"""Answers for the eye: code blocks in colour and, where it is asked for, Markdown, while the text still grows.

Only ANSI colours, only on a terminal that shows them; the text itself stays as the model wrote it.
"""

from __future__ import annotations

import re

_RESET, _CODE, _FENCE, _STRONG, _HEADING = "\x1b[0m", "\x1b[36m", "\x1b[2m", "\x1b[1m", "\x1b[1;35m"
_BEGINS = re.compile(r" {0,3}(?:`{0,2}|#{1,6})")  # of a line whose kind is not known yet
_FENCED = re.compile(r" {0,3}```")
_TITLE = re.compile(r" {0,3}#{1,6} ")


class Rendering:
    """A filter of the pieces of one answer. `markdown`: headings, `**strong**` and `` `code` `` besides code blocks."""

    def __init__(self, *, markdown: bool = False) -> None:
        self.markdown = markdown
        self._begin()

    def _begin(self) -> None:
        self._line = ""  # what of the line was seen
        self._held = ""  # what of it is not shown yet
        self._in_block = self._is_fence = self._is_title = self._is_strong = self._is_code = False

    def push(self, piece: str) -> str:
        """What to show now; a few characters may wait until it is known what they begin."""
        return "".join(map(self._next, piece))

    def finish(self) -> str:
        """What still waits, and the end of every colour."""
        shown = self._release() + (_RESET if self._painted else "")
        self._begin()
        return shown

    @property
    def _painted(self) -> bool:
        return self._in_block or self._is_fence or self._is_title or self._is_strong or self._is_code

    def _next(self, mark: str) -> str:
        if mark == "\n":
            return self._end_line()
        self._line += mark
        if not self._is_fence and _FENCED.fullmatch(self._line):
            self._is_fence, self._held = True, ""
            return (_RESET if self._in_block else "") + _FENCE + self._line
        if self._is_fence or self._in_block:
            if not self._is_fence and _BEGINS.fullmatch(self._line) and "#" not in self._line:
                self._held += mark
                return ""
            return self._release() + mark
        if self.markdown and _TITLE.fullmatch(self._line):
            self._is_title, self._held = True, ""
            return _HEADING + self._line
        if _BEGINS.fullmatch(self._line) and (self.markdown or "#" not in self._line):
            self._held += mark
            return ""
        if self._held == mark == "*":
            self._is_strong, self._held = not self._is_strong, ""
            return _STRONG + "**" if self._is_strong else "**" + _RESET
        return self._release() + (self._inline(mark) if self.markdown else mark)

    def _inline(self, mark: str) -> str:
        if mark == "`" and not self._is_title:
            self._is_code = not self._is_code
            return _CODE + mark if self._is_code else mark + _RESET
        if mark == "*" and not self._is_code and not self._is_title:
            self._held = mark
            return ""
        return mark

    def _release(self) -> str:
        shown, self._held = self._held, ""
        if self.markdown and not (self._in_block or self._is_fence) and shown.strip(" ") in ("`", "``"):
            self._is_code = len(shown.strip(" ")) == 1
            return shown.replace("`", _CODE + "`", 1) if self._is_code else shown
        return shown

    def _end_line(self) -> str:
        shown = self._release()
        if self._is_fence:
            self._in_block = not self._in_block
            shown += _RESET + "\n" + (_CODE if self._in_block else "")
        elif self._is_title or self._is_strong or self._is_code:
            shown += _RESET + "\n"
        else:
            shown += "\n"
        self._line = ""
        self._is_fence = self._is_title = self._is_strong = self._is_code = False
        return shown
