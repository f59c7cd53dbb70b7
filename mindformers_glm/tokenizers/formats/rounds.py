r"""ChatGLM2: rounds as one text, encoded at once.

    [gMASK] sop [Round 1]\n\n问：q1\n\n答：{a1}\n\n[Round 2]\n\n问：q2\n\n答：{a2 E}

Learned tokens stand in braces, E is eos. The official prompt has no eos after a past reply, so the last token of a1 has
the label eos while the next id is the newline of the template: the model learns to stop there, and prompts stay the
official ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from mindformers_glm.errors import GenerationError
from mindformers_glm.labels import IGNORED
from mindformers_glm.tokenizers.formats.base import ChatFormat, Rendered
from mindformers_glm.tokenizers.messages import NO_TOOLS, TOOLS_INTRODUCTION, Message

_ANSWER = "答："
_Pairs = list[tuple[str, str | None]]


class Rounds(ChatFormat):
    """The chat format of ChatGLM2."""

    def check(self, messages: list[Message]) -> None:
        """Raises GenerationError when the messages are no rounds."""
        _rounds(messages)

    def said(self, messages: list[Message]) -> list[int]:
        """See ChatFormat."""
        system, rounds = _rounds(messages)
        text = system + "".join(_texts(rounds))
        waits = bool(rounds) and rounds[-1][1] is None
        return self.tokenizer.encode(text.removesuffix(_ANSWER) if waits else text)

    def prompt(self, messages: list[Message]) -> list[int]:
        """See ChatFormat."""
        return self.tokenizer.encode(prompt_text(messages))

    def example(self, messages: list[Message], learned: Sequence[bool]) -> Rendered:
        """See ChatFormat."""
        system, rounds = _rounds(messages)
        replies = [learn for message, learn in zip(messages, learned, strict=True) if message.role == "assistant"]
        if not rounds or rounds[-1][1] is None:
            return self._past(system, rounds, replies)
        *past, (query, answer) = rounds
        start = self._past(system, [*past, (query, None)], replies[:-1])
        reply = [*self.tokenizer.encode(answer, add_special_tokens=False), self.tokenizer.eos_token_id]
        target = reply if replies[-1] else [IGNORED] * len(reply)
        return Rendered(start.ids + reply, start.labels[:-1] + target + [IGNORED])

    def _past(self, system: str, rounds: _Pairs, learned: list[bool]) -> Rendered:
        """Rounds before the reply: one text, labels found by where each piece lies in it."""
        texts = _texts(rounds)
        if not any(reply and learn for (_, reply), learn in zip(rounds, [*learned, False], strict=False)):
            ids = self.tokenizer.encode(system + "".join(texts))
            return Rendered(ids, [IGNORED] * len(ids))
        pieces = self.tokenizer.vocabulary.encode_with_offsets(system + "".join(texts))
        prefix = self.tokenizer.get_prefix_tokens()
        ids = prefix + [token for token, _, _ in pieces]
        labels = [IGNORED] * len(ids)
        begins = [-1] * len(prefix) + [begin for _, begin, _ in pieces]
        end = _length(system)
        for (_, reply), text, learn in zip(rounds, texts, [*learned, False], strict=False):
            end += _length(text)
            if reply and learn:
                self._label(ids, labels, begins, range(end - _length(reply) - 2, end - 2))
        return Rendered(ids, labels)

    def _label(self, ids: list[int], labels: list[int], begins: list[int], reply: range) -> None:
        """Labels for the pieces that begin inside a reply, and eos for where it ends."""
        first, last = bisect_left(begins, reply.start), bisect_left(begins, reply.stop)
        labels[first - 1 : last - 1] = ids[first:last]
        if first < last:
            labels[last - 1] = self.tokenizer.eos_token_id


def prompt_text(messages: list[Message]) -> str:
    """The text of ChatGLM2 that waits for a reply to the last message.

    Raises:
        GenerationError: the messages are no rounds, or the last is not the user's.
    """
    system, rounds = _rounds(messages)
    if not rounds or rounds[-1][1] is not None:
        raise GenerationError("history: the last message must be the user's, the model answers it")
    return system + "".join(_texts(rounds))


def _texts(rounds: _Pairs) -> list[str]:
    """The text of each round, open for the reply where there is none."""
    heads = [f"[Round {number}]\n\n问：{query}\n\n{_ANSWER}" for number, (query, _) in enumerate(rounds, 1)]
    return [head if reply is None else f"{head}{reply}\n\n" for head, (_, reply) in zip(heads, rounds, strict=True)]


def _rounds(messages: list[Message]) -> tuple[str, _Pairs]:
    system = ""
    if messages and messages[0].role == "system":
        first, messages = messages[0], messages[1:]
        if first.tools not in NO_TOOLS:
            raise GenerationError("tools: ChatGLM2 knows no tools; use ChatGLM3")
        if first.tools is None or first.content != TOOLS_INTRODUCTION:  # which announces no tools at all here
            system = f"{first.content}\n\n"
    rounds: _Pairs = []
    for message in messages:
        if message.role == "user" and (not rounds or rounds[-1][1] is not None):
            rounds.append((message.content, None))
        elif message.role == "assistant" and not message.metadata and rounds and rounds[-1][1] is None:
            rounds[-1] = (rounds[-1][0], message.content)
        else:
            roles = f"{message.role} in place {messages.index(message) + 1}"
            raise GenerationError(f"history: {roles}. ChatGLM2 knows user and assistant in turn; use ChatGLM3 for more")
    return system, rounds


def _length(text: str) -> int:
    """Bytes of a text, as the offsets of pieces count."""
    return len(text.encode("utf-8", "replace"))
