r"""The one renderer from messages to ids and labels, for training, evaluation, chat and server.

Learned tokens stand in braces, E is eos. ChatGLM2, rounds as one text, encoded at once:

    [gMASK] sop [Round 1]\n\n问：q1\n\n答：{a1}\n\n[Round 2]\n\n问：q2\n\n答：{a2 E}

The official prompt has no eos after a past reply, so the last token of a1 has the label eos while the next id is
the newline of the template: the model learns to stop there, and prompts stay the official ones.

ChatGLM3, each message by itself: role id, metadata and newline, content.

    [gMASK] sop <|user|> \n q1 <|assistant|> {\n a1 <|user|>} \n q2 <|assistant|> {\n a2 E}

The token that ends a reply (the next role, or eos) is learned: it is how the model stops. The role that opens a
reply is not: the prompt ends with it. `prompt(messages)` is the beginning of `example(messages + [reply]).ids`.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.messages import NO_TOOLS, NULL, TOOLS_INTRODUCTION, Message, read_messages

LossPolicy = Literal["all", "last", "per_message"]
POLICIES = ("all", "last", "per_message")
IGNORED = -100
_ANSWER = "答："


class Rendered(NamedTuple):
    """`labels[i]` is the token to predict at position i, or -100; both lists are equally long."""

    ids: list[int]
    labels: list[int]


class Renderer:
    """Messages -> ids by the rules of the tokenizer's generation.

    `tools_indent` is how the descriptions of tools are printed: 4 as the official chat does, None on one line.
    """

    def __init__(self, tokenizer: GLMTokenizer, *, tools_indent: int | None = 4) -> None:
        self.tokenizer = tokenizer
        self._rules = _Rounds(tokenizer) if tokenizer.generation == 2 else _Roles(tokenizer, tools_indent)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a reply."""
        return self.tokenizer.stop_ids

    def prompt(
        self, history: Iterable[Any], query: str | None = None, *, open_reply: bool = True, **more: Any
    ) -> list[int]:
        """Ids that wait for the assistant's reply. `history` and `more` as for `read_messages`.

        Without `open_reply` they end with the last message, whoever said it.

        Raises:
            GenerationError: the conversation has a form that this model does not know.
        """
        messages = read_messages(history, query, **more)
        return self._rules.prompt(messages) if open_reply else self._rules.said(messages)

    def text(self, ids: list[int]) -> str:
        """The text that stands for the ids of a prompt, special tokens by name."""
        return self._rules.text(ids)

    def check(self, messages: list[Message]) -> None:
        """Raises GenerationError when a conversation to learn from has a form that this model does not know."""
        self._rules.check(messages)
        if not any(message.role == "assistant" for message in messages):
            raise GenerationError("no assistant message, nothing to learn")

    def example(self, history: Iterable[Any], *, loss: LossPolicy = "all", **more: Any) -> Rendered:
        """Ids and labels of a whole conversation.

        `loss`: "all" learns every assistant message, "last" those after the last user message, "per_message"
        those that say `loss: true`. A message's own `loss` decides over "all" and "last".

        Raises:
            GenerationError: the conversation has a form that this model does not know.
        """
        messages = read_messages(history, **more)
        return self._rules.example(messages, learned_messages(messages, loss))


def learned_messages(messages: list[Message], policy: LossPolicy) -> list[bool]:
    """Which messages are learned.

    Raises:
        ConfigError: the policy has another name.
    """
    if policy not in POLICIES:
        raise ConfigError("loss_policy", policy, f"Use one of {', '.join(POLICIES)}.")
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    recent = users[-1] if users else -1
    usual = {"all": lambda index: True, "last": lambda index: index > recent, "per_message": lambda index: False}[
        policy
    ]
    return [
        message.role == "assistant" and (usual(index) if message.loss is None else bool(message.loss))
        for index, message in enumerate(messages)
    ]


class _Roles:
    """ChatGLM3."""

    def __init__(self, tokenizer: GLMTokenizer, tools_indent: int | None) -> None:
        self.tokenizer, self.indent = tokenizer, tools_indent

    def check(self, messages: list[Message]) -> None:
        for message in messages:
            self._content(message)

    def said(self, messages: list[Message]) -> list[int]:
        ids = self.tokenizer.get_prefix_tokens()
        for message in messages:
            ids += self._ids(message)
        return ids

    def prompt(self, messages: list[Message]) -> list[int]:
        return [*self.said(messages), self.tokenizer.get_command("<|assistant|>")]

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def example(self, messages: list[Message], learned: list[bool]) -> Rendered:
        ids = self.tokenizer.get_prefix_tokens()
        targets = [False] * len(ids)
        before = False  # whether the previous message is learned, and so the token that ends it
        for message, learn in zip(messages, learned, strict=True):
            own = self._ids(message)
            ids += own
            targets += [before, *[learn] * (len(own) - 1)]
            before = learn
        if messages and messages[-1].role == "assistant":
            ids.append(self.tokenizer.eos_token_id)
            targets.append(before)
        labels = [token if target else IGNORED for token, target in zip(ids, targets, strict=True)]
        return Rendered(ids, [*labels[1:], IGNORED])

    def _ids(self, message: Message) -> list[int]:
        return self.tokenizer.build_single_message(message.role, message.metadata, self._content(message))

    def _content(self, message: Message) -> str:
        if message.tools is None:
            return message.content
        return f"{message.content}\n{self._printed(None if message.tools is NULL else message.tools)}"

    def _printed(self, tools: Any) -> str:
        try:
            return json.dumps(tools, indent=self.indent, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise GenerationError(f"tools: not JSON ({error})") from error


class _Rounds:
    """ChatGLM2."""

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        self.tokenizer = tokenizer

    def check(self, messages: list[Message]) -> None:
        _rounds(messages)

    def said(self, messages: list[Message]) -> list[int]:
        system, rounds = _rounds(messages)
        text = system + "".join(_texts(rounds))
        waits = bool(rounds) and rounds[-1][1] is None
        return self.tokenizer.encode(text.removesuffix(_ANSWER) if waits else text)

    def prompt(self, messages: list[Message]) -> list[int]:
        return self.tokenizer.encode(prompt_text(messages))

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def example(self, messages: list[Message], learned: list[bool]) -> Rendered:
        system, rounds = _rounds(messages)
        replies = [learn for message, learn in zip(messages, learned, strict=True) if message.role == "assistant"]
        if not rounds or rounds[-1][1] is None:
            return self._past(system, rounds, replies)
        *past, (query, answer) = rounds
        start = self._past(system, [*past, (query, None)], replies[:-1])
        reply = [*self.tokenizer.encode(answer, add_special_tokens=False), self.tokenizer.eos_token_id]
        target = reply if replies[-1] else [IGNORED] * len(reply)
        return Rendered(start.ids + reply, start.labels[:-1] + target + [IGNORED])

    def _past(self, system: str, rounds: list[tuple[str, str | None]], learned: list[bool]) -> Rendered:
        """Rounds before the reply: one text, labels found by where each piece lies in it."""
        texts = _texts(rounds)
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


def _texts(rounds: list[tuple[str, str | None]]) -> list[str]:
    """The text of each round, open for the reply where there is none."""
    heads = [f"[Round {number}]\n\n问：{query}\n\n{_ANSWER}" for number, (query, _) in enumerate(rounds, 1)]
    return [head if reply is None else f"{head}{reply}\n\n" for head, (_, reply) in zip(heads, rounds, strict=True)]


def _rounds(messages: list[Message]) -> tuple[str, list[tuple[str, str | None]]]:
    system = ""
    if messages and messages[0].role == "system":
        first, messages = messages[0], messages[1:]
        if first.tools not in NO_TOOLS:
            raise GenerationError("tools: ChatGLM2 knows no tools; use ChatGLM3")
        if first.tools is None or first.content != TOOLS_INTRODUCTION:  # which announces no tools at all here
            system = f"{first.content}\n\n"
    rounds: list[tuple[str, str | None]] = []
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
