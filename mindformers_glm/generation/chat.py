"""`model.chat` and `model.stream_chat`: a message and the history in, the reply and the new history out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mindformers_glm.errors import GenerationError, shorten
from mindformers_glm.generation.config import GenerationConfig, make_config
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import engine_of, log_speed
from mindformers_glm.registry import SERVICES
from mindformers_glm.tokenizers.chat import Renderer
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.messages import offered_tools, read_messages, said_with_calls
from mindformers_glm.tokenizers.reply import Reply, ReplyStream

if TYPE_CHECKING:
    from mindspore import nn


class Turn(NamedTuple):
    """The reply so far, and the conversation including it: pairs or messages, in the form of the history given."""

    response: str
    history: list[Any]


class ReplyEvent(NamedTuple):
    """New text of a reply (may be empty), the new id, and the reply so far."""

    text: str
    token: int | None
    reply: Reply


def stream_reply(
    engine: Engine,
    tokenizer: GLMTokenizer,
    prompt: Sequence[int],
    config: GenerationConfig,
    *,
    tools: Iterable[str] = (),
) -> Iterator[ReplyEvent]:
    """A reply token by token; closing the iterator cancels it. The last event has no token.

    `tools` are the names of the tools that the prompt offers.

    The reply ends at stop ids of the tokenizer and of `config`. The KV cache of earlier turns is used again.
    """
    config = config.ending_also(tokenizer.stop_ids)
    ticket = engine.submit(prompt, config, reuse_prefix=True)
    stream = ReplyStream(tokenizer, tools=tools)
    try:
        for token in ticket:
            yield ReplyEvent(stream.push(token.choice.token), token.choice.token, stream.reply)
        yield ReplyEvent(stream.finish(), None, stream.reply)
    finally:
        ticket.cancel()


def chat(
    model: nn.Cell,
    tokenizer: GLMTokenizer,
    query: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    history: Sequence[Any] | None = None,
    **options: Any,
) -> Turn:
    """The reply to `query`, and the history with both added; arguments as for `stream_chat`.

    Where ChatGLM3 calls a tool, `history` ends with that call as a message with `tool_calls`.
    """
    begin = time.perf_counter()
    turns = list(stream_chat(model, tokenizer, query, history, **options))
    log_speed(time.perf_counter() - begin, len(turns) - 1)
    return turns[-1]


def stream_chat(
    model: nn.Cell,
    tokenizer: GLMTokenizer,
    query: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    history: Sequence[Any] | None = None,
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    role: str = "user",
    system: str | None = None,
    tools: Any = None,
    generation_config: GenerationConfig | dict | None = None,
    **settings: Any,
) -> Iterator[Turn]:
    """The reply so far and the history with it, after every token.

    `history` holds pairs (query, reply) or messages {role, content}, and comes back in its form (pairs for ChatGLM2,
    messages for ChatGLM3 when it is empty). `query` may also be a message, or a conversation whose last message is
    to be answered (`messages=` is another name of it); with `tools` the model is told what it may call. `settings` are
    fields of GenerationConfig.

    Raises:
        GenerationError: a history that the chat format of the model cannot express, or a setting out of range.
    """
    if history is not None and (isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Iterable)):
        fix = "Give the list that the last reply came back with, or [] to begin"
        raise GenerationError(f"chat: history is {type(history).__name__} ({shorten(history)}), not a list. {fix}")
    history, said = _conversation(list(history or []), query if messages is None else messages, role)
    if num := {"num_beams", "num_return_sequences"} & {name for name, value in settings.items() if (value or 1) != 1}:
        raise GenerationError(f"{num.pop()}: a chat has one reply. Use 1, or model.generate")
    turns = read_messages([*history, said], system=system, tools=tools or None)
    prompt = Renderer(tokenizer).prompt(turns)
    config = make_config(generation_config, GenerationConfig.from_model(model.config), **settings)
    for event in stream_reply(engine_of(model), tokenizer, prompt, config, tools=offered_tools(turns)):
        yield Turn(event.reply.content, _extended(tokenizer, history, said, event.reply))


def _conversation(history: list[Any], query: Any, role: str) -> tuple[list[Any], Mapping[str, Any]]:
    """The earlier messages, and the one to answer; `query` may be that message, or a conversation that ends with it."""
    if isinstance(query, str):
        return history, {"role": role, "content": query}
    messages = [query] if isinstance(query, Mapping) else query
    if not isinstance(messages, Sequence) or not messages or not all(isinstance(m, Mapping) for m in messages):
        fix = "expected text, a message {'role': 'user', 'content': ...} or a list of messages"
        raise GenerationError(f"query: {fix}, got {shorten(query, 60)}")
    if messages[-1].get("role") == "assistant":
        raise GenerationError("query: the last message must be the user's or a tool's result, the model answers it")
    return [*history, *messages[:-1]], messages[-1]


def _extended(tokenizer: GLMTokenizer, history: list[Any], said: Mapping[str, Any], reply: Reply) -> list[Any]:
    as_messages = isinstance(history[0], Mapping) if history else tokenizer.rules.has_roles
    if not as_messages and not reply.tool_calls and said["role"] == "user":
        return [*history, (said["content"], reply.content)]
    answer = said_with_calls(reply.content, reply.tool_calls, tokenizer.rules.call_text, reasoning=reply.reasoning)
    if not reply.tool_calls and tokenizer.rules.has_roles:
        answer["metadata"] = ""
    return [*history, said, answer]


SERVICES["chat"] = chat
SERVICES["stream_chat"] = stream_chat
