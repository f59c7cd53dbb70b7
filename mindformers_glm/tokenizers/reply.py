"""What the assistant said: visible text as it comes, and at the end content and tool calls, read from ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.stream import TextStream
from mindformers_glm.tokenizers.toolcall import is_official_call, may_be_call, read_arguments

_NAME = re.compile(r"[\w.\-]{1,64}")  # of a tool, in any script: the official code takes the whole first line
_THOUGHT_ENDS = "</think>"
_MARKER, _YEAR = "[[训练时间]]", "2023年"  # the official chat shows the second where the model writes the first
End = Literal["eos", "user", "observation", "role", None]


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called. `text` is the call as the model wrote it, below its name.

    A call of `interpreter` is code: `arguments` are {"code": the text}, whatever it looks like.
    """

    name: str
    arguments: dict[str, Any]
    text: str = field(default="", compare=False, repr=False)


@dataclass
class Reply:
    """`content` is what a user sees; `end` is the token that ended the reply, None when it was not reached.

    `reasoning` is what a model that thinks wrote before `</think>`; it only grows, as `content` does.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # calls that could not be read; their text is in content
    end: End = None


def parse_reply(tokenizer: GLMTokenizer, ids: Iterable[int], *, tools: Iterable[str] = ()) -> Reply:
    """Content and tool calls of a generated reply, where `tools` are the names that were offered.

    Any ids are accepted; nothing in them is executed.
    """
    stream = ReplyStream(tokenizer, tools=tools)
    for index in ids:
        stream.push(int(index))
    stream.finish()
    return stream.reply


class ReplyStream:
    """`push(id)` gives the text to show by now, `finish()` the last of it, and then `reply` is complete.

    Everything given joined equals `reply.content`. ChatGLM3 opens each message with a line that names a tool or is
    empty: it is never shown. A message is a call where that line names one of the `tools` that were offered, where
    <|observation|> ends it (the model then waits for a result), or where it is written as `tool_call(...)`. The text
    of a call is held back until the message is over; what looks like a call and is none is text, shown as soon as
    that is certain.
    """

    def __init__(self, tokenizer: GLMTokenizer, *, tools: Iterable[str] = ()) -> None:
        self.reply = Reply()
        self._tools = frozenset(tools)
        self._tokenizer = tokenizer
        self._format = tokenizer.rules
        self._has_head, self._thinks = self._format.opens_with_line, self._format.thinks
        self._ends = cast(dict[int, End], self._format.ends())
        self._turn = tokenizer.get_command("<|assistant|>") if self._has_head else None
        self._shown = ""
        self._open()

    def push(self, index: int) -> str:
        """New text to show after one more id; ids after the end are ignored."""
        if self.reply.end is not None:
            return ""
        if index in self._ends:
            end = self._ends[index]
            text = self._close(waits=end == "observation")
            self.reply.end = end
            return text
        if index == self._turn:
            text = self._close(waits=True)  # a call may be followed by another
            self._open()
            return text
        return self._take(self._text.push(index))

    @property
    def open_call(self) -> tuple[str, str] | None:
        """Name and text so far of a call of an offered tool while it is written."""
        return (self._name, self._body) if self._state == "call" and self._name in self._tools else None

    def finish(self) -> str:
        """The rest of the text, when no token ended the reply."""
        return "" if self._state == "closed" else self._close()

    def _open(self) -> None:
        self._text = TextStream(self._tokenizer)
        self._visible = _Visible(separate=bool(self.reply.content))
        self._state = "thought" if self._thinks else "head" if self._has_head else "plain"
        self._thinks = False  # a thought opens the reply, not every message of it
        self._head = self._name = self._body = ""

    def _take(self, text: str) -> str:
        if self._state == "thought":
            return self._take_thought(text)
        if self._state in ("head", "after thought"):
            return self._take_head(text)
        if self._state == "call":
            self._body += text
            return "" if self._may_be_call() else self._as_text()
        return self._show(text)

    def _take_thought(self, text: str) -> str:
        """Text before `</think>` is kept apart; what follows is read as a reply, from its first line that has words."""
        self._head += text
        thought, mark, rest = self._head.partition(_THOUGHT_ENDS)
        if mark:
            self.reply.reasoning = thought.strip()
            self._state, self._head = "after thought", ""
            return self._take_head(rest)
        keep = next((n for n in range(len(_THOUGHT_ENDS) - 1, 0, -1) if thought.endswith(_THOUGHT_ENDS[:n])), 0)
        self.reply.reasoning = thought[: len(thought) - keep].strip()
        return ""

    def _take_head(self, text: str) -> str:
        if self._state == "after thought":
            text = text.lstrip()
            if not text:
                return ""
            self._state = "head" if self._tools else "plain"
            if self._state == "plain":
                return self._show(text)
        self._head += text
        line, newline, rest = self._head.partition("\n")
        name = line.strip()
        if newline and not name:
            self._state = "plain"
            return self._show(rest)
        if newline and self._is_name(name):
            self._state, self._name, self._body = "call", name, rest
            return "" if self._may_be_call() else self._as_text()
        if name and not self._is_name(name):  # a reply without the line: this is its text already
            self._state = "plain"
            return self._show(self._head)
        return ""

    def _is_name(self, line: str) -> bool:
        return _NAME.fullmatch(line) is not None or any(tool.startswith(line) for tool in self._tools)

    def _may_be_call(self) -> bool:
        """Whether the message can still turn out to be a call: always, where its tool was offered."""
        return self._name in self._tools or may_be_call(self._body)

    def _as_text(self) -> str:
        self._state = "plain"
        return self._show(f"{self._head.partition(chr(10))[0].strip()}\n{self._body}")

    def _close(self, *, waits: bool = False) -> str:
        text = self._take(self._text.flush())
        if self._state == "thought":
            self.reply.reasoning = self._head.strip()
        if self._state == "head":
            text += self._show(self._head)
        elif self._state == "call":
            is_call = waits or self._name in self._tools or is_official_call(self._body)
            text += self._call(self._body) if is_call else self._as_text()
        last = self._visible.rest()
        self.reply.content += last
        self._state = "closed"
        return text + last

    def _call(self, body: str) -> str:
        written = body.strip()
        if self._name in self._format.code_tools and written:
            self.reply.tool_calls.append(ToolCall(self._name, {"code": written}, written))
            return ""
        try:
            arguments = read_arguments(body)
        except (ValueError, RecursionError) as error:
            self.reply.faults.append(f"{self._name}: {error}")
            return self._show(f"{self._name}\n{body}")
        self.reply.tool_calls.append(ToolCall(self._name, arguments, written))
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
