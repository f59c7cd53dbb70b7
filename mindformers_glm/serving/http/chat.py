"""/v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mindformers_glm.errors import UserError
from mindformers_glm.serving.http.answers import Answer, Answers, Wanted, check_room
from mindformers_glm.serving.http.body import Body, flag, mapping, one_of, parse, text, whole
from mindformers_glm.serving.http.errors import ApiError, refused, wrong
from mindformers_glm.serving.http.messages import read_chat, read_tools
from mindformers_glm.serving.http.responses import DONE, EventStream, answer, event, unless_gone
from mindformers_glm.serving.http.sampling import Sampling, check_lengths, read_sampling
from mindformers_glm.serving.http.service import Served, Service
from mindformers_glm.serving.http.structured import Constraint, Wish, constrain, force_call, read_wish
from mindformers_glm.serving.http.tokens import chat_logprobs
from mindformers_glm.serving.http.writer import ChatReply, Piece, dump_arguments
from mindformers_glm.tokenizers.chat import Renderer


@dataclass
class ChatRequest:
    """A chat that waits for its next message. `forced` names what must be called; empty: nothing must be."""

    served: Served
    messages: list[dict[str, Any]]
    sampling: Sampling
    tools: list[dict[str, Any]] | None = None
    forced: list[str] = field(default_factory=list)
    one_call: bool = False
    wish: Wish | None = None
    identity: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))


def make_endpoint(service: Service) -> Any:
    """The endpoint."""

    async def chat_completions(request: Request) -> Response:
        service.check_open()
        chat = read_request(service, parse(await request.body()))
        answers = Answers(service, chat.served, _wanted(chat), chat.sampling)
        if chat.sampling.stream:
            await answers.__aenter__()
            return EventStream(answers, _events(chat, answers), service.settings.ping_seconds)

        async def whole_answer() -> Response:
            async with answers:
                found = await answers.finished()
            choices = [_choice(chat, index, item) for index, item in enumerate(found)]
            head = {**_head(chat, "chat.completion"), "choices": choices, "usage": answers.usage()}
            return answer(head)

        return await unless_gone(request, whole_answer())

    return chat_completions


def read_request(service: Service, data: dict[str, Any]) -> ChatRequest:
    """The chat that a body asks for.

    Raises:
        ApiError: a field that is missing, wrong, unknown, or not here.
    """
    body = Body(data)
    served = service.model(body.take("model", text))
    settings = service.settings
    sampling = read_sampling(
        body, served.engine.vocab_size, most_answers=settings.max_answers, has_priorities=settings.has_priorities
    )
    newer = body.take("max_completion_tokens", whole(1))
    older = body.take("max_tokens", whole(1))
    sampling.max_tokens = newer if newer is not None else older
    check_lengths(sampling, "max_completion_tokens" if newer is not None else "max_tokens")
    sampling.logprobs = body.take("logprobs", flag, False)
    sampling.top_logprobs = body.take("top_logprobs", whole(0, 20), 0)
    if sampling.top_logprobs and not sampling.logprobs:
        raise wrong("top_logprobs", sampling.top_logprobs, "Only with logprobs: true.")
    tools = read_tools(body)
    forced, tools = _tool_choice(body, tools)
    chat = ChatRequest(
        served, read_chat(body.need("messages", lambda value: value), service.settings.max_messages), sampling
    )
    chat.tools, chat.forced = tools, forced
    chat.one_call = not body.take("parallel_tool_calls", flag, True) or bool(forced)
    chat.wish = read_wish(body)
    _refuse(body)
    body.finish()
    if chat.wish is not None and forced:
        raise refused("response_format", "not together with a tool_choice that demands a call")
    return chat


def _refuse(body: Body) -> None:
    for name in ("functions", "function_call"):
        body.refuse(name, "the old form of tools; use tools and tool_choice")
    for name in ("audio", "prediction", "web_search_options"):
        body.refuse(name, "this server has no such thing")
    body.refuse("modalities", "this model answers in text alone", ["text"])
    body.refuse("reasoning_effort", "this model thinks as long as it thinks")
    body.refuse("verbosity", "say in a message how long the answer is to be", "medium")
    body.refuse("store", "nothing is kept here", False)
    body.refuse("service_tier", "there is one tier", "auto", "default")
    body.refuse("prompt_cache_retention", "prefixes are kept while there is room for them")
    body.refuse("add_generation_prompt", "a chat is always answered", True)
    body.refuse("continue_final_message", "not here; /v1/completions continues a text", False)
    body.refuse("chat_template", "the model's own is used")
    for name in ("separate_reasoning", "stream_reasoning", "include_reasoning"):  # routers add them
        body.refuse(name, "thoughts are always told, and apart from the answer", True)
    body.refuse("best_of", "only in /v1/completions", 1)
    body.refuse("echo", "only in /v1/completions", False)
    body.take("metadata", mapping)  # labels for what is stored, which nothing is


def _tool_choice(body: Body, tools: list[dict[str, Any]] | None) -> tuple[list[str], list[dict[str, Any]] | None]:
    """Names of which one must be called, and the tools that are offered."""
    value = body.take("tool_choice", lambda value: value)
    names = [tool["name"] for tool in tools or []]
    if isinstance(value, dict):
        choice = Body(value, "tool_choice")
        choice.need("type", one_of("function"))
        function = Body(choice.need("function", mapping), "tool_choice.function")
        name = function.need("name", text)
        function.finish()
        choice.finish()
        if name not in names:
            raise wrong("tool_choice.function.name", name, "No tool of the request has this name.")
        return [name], tools
    if value not in (None, "auto", "none", "required"):
        raise wrong("tool_choice", value, "Give 'none', 'auto', 'required' or an object that names a function.")
    if value == "required":
        if not tools:
            raise wrong("tool_choice", value, "There are no tools to choose from.")
        return names, tools
    return [], None if value == "none" else tools


def _wanted(chat: ChatRequest) -> list[Wanted]:
    """What the engine is asked for."""
    served, tokenizer = chat.served, chat.served.tokenizer
    try:
        prompt = Renderer(tokenizer).prompt(chat.messages, tools=chat.tools)
    except UserError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from error
    names = [tool["name"] for tool in chat.tools or []]
    if chat.forced:
        tools = [tool for tool in chat.tools or [] if tool["name"] in chat.forced]
        constraint: Constraint | None
        given, constraint = force_call(served, tools, chat.sampling)
    else:
        given, constraint = constrain(served, chat.wish, chat.sampling, is_chat=True)
    prompt = [*prompt, *given]
    check_room(served, prompt, "messages")
    return [
        Wanted(
            prompt,
            ChatReply(tokenizer, tools=names, given=given, one_call=chat.one_call),
            tokenizer.stop_ids,
            draw=draw,
            mask=None if constraint is None else constraint(),
        )
        for draw in range(chat.sampling.n)
    ]


# --- answers -----------------------------------------------------------------------------------------------------


def _head(chat: ChatRequest, kind: str) -> dict[str, Any]:
    return {
        "id": chat.identity,
        "object": kind,
        "created": chat.created,
        "model": chat.served.name,
        "system_fingerprint": None,
    }


def _choice(chat: ChatRequest, index: int, found: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": found.text, "refusal": None}
    if found.reasoning:
        message["reasoning_content"] = found.reasoning
    if found.calls:
        message["content"] = found.text or None
        message["tool_calls"] = [_call(call.name, dump_arguments(call.arguments)) for call in found.calls]
    logprobs = None
    if chat.sampling.logprobs:
        logprobs = {"content": chat_logprobs(chat.served.tokenizer, found.choices), "refusal": None}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _reason(found)}


def _reason(found: Answer) -> str | None:
    return "tool_calls" if found.calls and found.finish == "stop" else found.finish


def _call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


async def _events(chat: ChatRequest, answers: Answers) -> AsyncIterator[bytes]:
    head = _head(chat, "chat.completion.chunk")

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**head, "choices": [choice]})

    calls = [_Calls() for _ in answers.answers]
    for index in range(len(answers.answers)):
        yield chunk(index, {"role": "assistant", "content": ""})
    async for piece in answers.pieces():
        found = answers.answers[piece.number]
        delta = _delta(piece)
        logprobs = None
        if chat.sampling.logprobs and piece.choice is not None:
            logprobs = {"content": chat_logprobs(chat.served.tokenizer, [piece.choice]), "refusal": None}
        if delta or logprobs:
            yield chunk(piece.number, delta, logprobs=logprobs)
        for delta in calls[piece.number].deltas(piece, len(found.calls)):
            yield chunk(piece.number, {"tool_calls": [delta]})
        if piece.finish is not None:
            yield chunk(piece.number, {}, _reason(found))
    if chat.sampling.include_usage:
        yield event({**head, "choices": [], "usage": answers.usage()})
    yield DONE


class _Calls:
    """Calls of one answer as a stream tells them: the name when it is certain, then each argument when it is whole."""

    def __init__(self) -> None:
        self._open, self._told = False, ""  # whether the newest call was begun, and what was told of its arguments
        self._faults = 0  # calls that were begun and could not be read to their end

    def deltas(self, piece: Piece, calls: int) -> Iterator[dict[str, Any]]:
        """What a piece adds; `calls` are the complete ones with it."""
        for place, call in enumerate(piece.calls, calls - len(piece.calls) + self._faults):
            yield from self._begin(place, call.name)
            whole = dump_arguments(call.arguments)
            yield from self._tell(place, whole if whole.startswith(self._told) else self._told + "}")
            self._open, self._told = False, ""
        place = calls + self._faults
        if piece.begun is not None:
            name, arguments = piece.begun
            yield from self._begin(place, name)
            yield from self._tell(place, arguments)
        elif (
            self._open and piece.finish != "length"
        ):  # its text is told too; its arguments stay no JSON, and run no tool
            self._open, self._told, self._faults = False, "", self._faults + 1

    def _begin(self, place: int, name: str) -> Iterator[dict[str, Any]]:
        if not self._open:
            self._open = True
            yield {"index": place, **_call(name, "")}

    def _tell(self, place: int, arguments: str) -> Iterator[dict[str, Any]]:
        if len(arguments) > len(self._told) and arguments.startswith(self._told):
            yield {"index": place, "function": {"arguments": arguments[len(self._told) :]}}
            self._told = arguments


def _delta(piece: Piece) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if piece.text:
        delta["content"] = piece.text
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    return delta
