"""From tokens to what a client is sent. A `Writer` works in the engine's thread, one for each answer on its way."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from mindformers_glm.generation.interface import Token
from mindformers_glm.generation.sampling import Choice
from mindformers_glm.generation.ticket import Item
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.reply import ReplyStream, ToolCall
from mindformers_glm.tokenizers.stream import TextStream
from mindformers_glm.tokenizers.toolcall import BegunCall

Finish = Literal["stop", "length", "cancelled"]
_BROKEN = "\ufffd"


class Piece(NamedTuple):
    """What one more token brought to the answer `number`; the last piece has `finish` or `error` and no token.

    `begun` is the call that is being written: its name, and the beginning of its arguments as JSON.
    """

    number: int
    text: str = ""
    reasoning: str = ""
    calls: Sequence[ToolCall] = ()
    begun: tuple[str, str] | None = None
    choice: Choice | None = None
    finish: Finish | None = None
    error: BaseException | None = None


def dump_arguments(arguments: dict[str, Any]) -> str:
    """Arguments of a call as JSON."""
    return json.dumps(arguments, ensure_ascii=False)


class Source(Protocol):
    """Reads ids as they come."""

    calls: list[ToolCall]
    begun: tuple[str, str] | None  # see Piece

    @property
    def reasoning(self) -> str:
        """What was thought before the answer."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted."""
        ...

    def push(self, token: int) -> str:
        """New text."""

    def finish(self) -> str:
        """The rest of it."""


class PlainText:
    """Text as it is decoded after the ids `after`, so that prompt and text joined read as one."""

    def __init__(self, tokenizer: GLMTokenizer, *, after: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
        for token in after[-8:]:
            self._stream.push(token)
        self.calls: list[ToolCall] = []
        self.begun: tuple[str, str] | None = None
        self.reasoning, self.is_over = "", False

    def push(self, token: int) -> str:
        """See Source."""
        return self._stream.push(token)

    def finish(self) -> str:
        """See Source."""
        return self._stream.flush()


class ChatReply:
    """The reply of an assistant: what is shown, and the calls of `tools`. A call of anything else is text.

    `given` are ids of the reply that the prompt ends with. With `one_call` it is over after a call.
    """

    def __init__(
        self, tokenizer: GLMTokenizer, *, tools: Sequence[str] = (), given: Sequence[int] = (), one_call: bool = False
    ) -> None:
        self._stream, self._tools, self._one_call = ReplyStream(tokenizer, tools=tools), set(tools), one_call
        self._code_tools, self._seen = tokenizer.rules.code_tools, 0
        self.begun: tuple[str, str] | None = None
        self._writing: tuple[tuple[int, str], BegunCall] | None = None  # the call that is open, by its number and name
        self.calls: list[ToolCall] = []
        for token in given:
            self._stream.push(token)

    @property
    def reasoning(self) -> str:
        """See Source."""
        return self._stream.reply.reasoning

    @property
    def is_over(self) -> bool:
        """See Source."""
        return self._one_call and bool(self.calls)

    def push(self, token: int) -> str:
        """See Source."""
        text = self._sorted(self._stream.push(token))
        self.begun = None if self.is_over else self._begun()
        return text

    def _begun(self) -> tuple[str, str] | None:
        opened = self._stream.open_call
        if opened is None:
            return None
        name, body = opened
        if name in self._code_tools:
            written = body.strip()
            return (name, dump_arguments({"code": written})[:-2]) if written else None
        which = len(self._stream.reply.tool_calls), name
        if self._writing is None or self._writing[0] != which:
            self._writing = which, BegunCall()
        arguments = self._writing[1].arguments(body)
        return None if arguments is None else (name, dump_arguments(arguments)[:-1] if arguments else "")

    def finish(self) -> str:
        """See Source."""
        self.begun = None
        return self._sorted(self._stream.finish())

    def _sorted(self, text: str) -> str:
        new = self._stream.reply.tool_calls[self._seen :]
        self._seen += len(new)
        for call in new:
            if call.name not in self._tools:
                text += f"{call.name}\n{call.text}"
            elif not self.is_over:
                self.calls.append(call)
        return text


class StopStrings:
    """Text up to the first of some strings; what may become one is held back."""

    def __init__(self, strings: Sequence[str], *, include: bool = False) -> None:
        self._strings, self._include, self._held = list(strings), include, ""
        self.found = False

    def push(self, text: str) -> str:
        """What is certain to be before a stop string by now."""
        if not self._strings or self.found:
            return "" if self.found else text
        self._held += text
        hits = [(place, word) for word in self._strings if (place := self._held.find(word)) >= 0]
        if hits:
            self.found = True
            place, word = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            return self._held[: place + len(word) if self._include else place]
        longest = min(max(map(len, self._strings)) - 1, len(self._held))
        keep = next((n for n in range(longest, 0, -1) if self._may_begin(self._held[-n:])), 0)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return ready

    def rest(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return "" if self.found else held

    def _may_begin(self, tail: str) -> bool:
        return any(word.startswith(tail) for word in self._strings)


class Writer:
    """Listener and stop function of one request to the engine; `put` gets its pieces.

    `hidden` ids end the answer and are not shown. `limit` is the most tokens it may have, `min_tokens` the
    fewest before a stop string counts.
    """

    def __init__(
        self,
        index: int,
        source: Source,
        put: Callable[[Piece], Any],
        *,
        stops: StopStrings,
        end_ids: Sequence[int],
        hidden: Sequence[int] = (),
        limit: int,
        min_tokens: int = 0,
    ) -> None:
        self.index, self.count = index, 0
        self._source, self._put, self._stops = source, put, stops
        self._ends, self._hidden, self._limit, self._min_tokens = set(end_ids), set(hidden), limit, min_tokens
        self._text, self._is_read, self._last = "", False, -1
        self._calls = 0
        self._reasoning = 0

    def stop(self, ids: list[int]) -> bool:
        """Whether the text is over with the newest of these ids; the engine asks before it tells of that token."""
        self._read(ids[-1])
        return self._stops.found or self._source.is_over

    def __call__(self, item: Item) -> None:
        """A new token, or the end."""
        if not isinstance(item, Token):
            self._put(self._end(item))
            return
        if not self._is_read:  # an end id, of which `stop` is not asked
            self._read(item.choice.token)
        self._is_read = False
        self._put(self._piece(self._text, choice=item.choice))

    def _read(self, token: int) -> None:
        self.count, self._last, self._is_read = self.count + 1, token, True
        text = "" if token in self._hidden else self._source.push(token)
        self._text = self._stops.push(text) if self.count >= self._min_tokens else text

    def _piece(self, text: str, **more: Any) -> Piece:
        calls, reasoning = self._source.calls[self._calls :], self._source.reasoning[self._reasoning :]
        self._calls, self._reasoning = self._calls + len(calls), self._reasoning + len(reasoning)
        return Piece(self.index, text, reasoning, tuple(calls), self._source.begun, **more)

    def _end(self, error: BaseException | None) -> Piece:
        if error is not None:
            return Piece(self.index, error=error)
        is_full = self.count >= self._limit and self._last not in self._ends
        last = "" if self._stops.found else self._source.finish()
        last = last.rstrip(_BROKEN) if is_full else last  # a character that the limit cut through
        text = self._stops.push(last) + self._stops.rest()
        ended = self._stops.found or self._source.is_over or self._last in self._ends
        return self._piece(text, finish="stop" if ended else "length" if is_full else "cancelled")
