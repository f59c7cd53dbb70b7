"""What the assistant said: visible text as it comes, and at the end content and tool calls, read from ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.stream import TextStream
from mindformers_glm.tokenizers.toolcall import read_arguments

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_MARKER, _YEAR = "[[训练时间]]", "2023年"  # the official chat shows the second where the model writes the first
_CODE_TOOL = "interpreter"
End = Literal["eos", "user", "observation", "role", None]


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called."""

    name: str
    arguments: dict[str, Any]


@dataclass
class Reply:
    """`content` is what a user sees; `end` is the token that ended the reply, None when it was not reached."""

    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # calls that could not be read; their text is in content
    end: End = None


def parse_reply(tokenizer: GLMTokenizer, ids: Iterable[int]) -> Reply:
    """Content and tool calls of a generated reply. Any ids are accepted; nothing in them is executed."""
    stream = ReplyStream(tokenizer)
    for index in ids:
        stream.push(int(index))
    stream.finish()
    return stream.reply


class ReplyStream:
    """`push(id)` gives the text to show by now, `finish()` the last of it, and then `reply` is complete.

    Everything given joined equals `reply.content`. ChatGLM3 opens each message with a line that names a tool or is
    empty: it is never shown. The text of a call is held back until the message is over; only where no call can be
    read from it is it shown.
    """

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        self.reply = Reply()
        self._tokenizer = tokenizer
        self._has_head = tokenizer.generation == 3
        self._ends = self._end_table()
        self._turn = tokenizer.get_command("<|assistant|>") if self._has_head else None
        self._shown = ""
        self._open()

    def push(self, index: int) -> str:
        """New text to show after one more id; ids after the end are passed over."""
        if self.reply.end is not None:
            return ""
        if index in self._ends:
            text = self._close()
            self.reply.end = self._ends[index]
            return text
        if index == self._turn:
            text = self._close()
            self._open()
            return text
        return self._take(self._text.push(index))

    def finish(self) -> str:
        """The rest of the text, when no token ended the reply."""
        return "" if self._state == "closed" else self._close()

    def _end_table(self) -> dict[int, End]:
        table: dict[int, End] = {self._tokenizer.eos_token_id: "eos"}
        if self._has_head:
            names: dict[str, End] = {"<|user|>": "user", "<|observation|>": "observation", "<|system|>": "role"}
            table |= {self._tokenizer.get_command(name): end for name, end in names.items()}
        return table

    def _open(self) -> None:
        self._text = TextStream(self._tokenizer)
        self._visible = _Visible(separate=bool(self.reply.content))
        self._state = "head" if self._has_head else "plain"
        self._head: str = ""
        self._body: list[str] = []

    def _take(self, text: str) -> str:
        if self._state == "head":
            return self._take_head(text)
        if self._state == "call":
            self._body.append(text)
            return ""
        return self._show(text)

    def _take_head(self, text: str) -> str:
        self._head += text
        line, newline, rest = self._head.partition("\n")
        name = line.strip()
        if newline and not name:
            self._state = "plain"
            return self._show(rest)
        if newline and _NAME.fullmatch(name):
            self._state, self._head, self._body = "call", name, [rest]
            return ""
        if name and not _NAME.fullmatch(name):  # a reply without the line: this is its text already
            self._state = "plain"
            return self._show(self._head)
        return ""

    def _close(self) -> str:
        text = self._take(self._text.flush())
        if self._state == "head":
            text += self._show(self._head)
        elif self._state == "call":
            text += self._call("".join(self._body))
        last = self._visible.rest()
        self.reply.content += last
        self._state = "closed"
        return text + last

    def _call(self, body: str) -> str:
        try:
            arguments = read_arguments(body)
        except (ValueError, RecursionError) as error:
            if self._head == _CODE_TOOL and body.strip():
                self.reply.tool_calls.append(ToolCall(_CODE_TOOL, {"code": body.strip()}))
                return ""
            self.reply.faults.append(f"{self._head}: {error}")
            return self._show(f"{self._head}\n{body}")
        self.reply.tool_calls.append(ToolCall(self._head, arguments))
        return ""

    def _show(self, text: str) -> str:
        ready = self._visible.take(text)
        self.reply.content += ready
        return ready


class _Visible:
    """Text without spaces at either end, and with the training-time marker replaced."""

    def __init__(self, *, separate: bool) -> None:
        self._held = ""
        self._begun = False
        self._separator = "\n" if separate else ""

    def take(self, text: str) -> str:
        self._held = (self._held + text).replace(_MARKER, _YEAR)
        keep = next((n for n in range(len(_MARKER) - 1, 0, -1) if self._held.endswith(_MARKER[:n])), 0)
        return self._release(len(self._held) - keep)

    def rest(self) -> str:
        return self._release(len(self._held))

    def _release(self, end: int) -> str:
        ready = self._held[:end].rstrip()
        self._held = self._held[len(ready) :]
        if not self._begun:
            ready = ready.lstrip()
            if not ready:
                return ""
            self._begun = True
            return self._separator + ready
        return ready
