"""Answers on their way: requests to the engine, and their pieces in the event loop as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindformers_glm.errors import UserError
from mindformers_glm.generation.sampling import Choice
from mindformers_glm.generation.ticket import Ticket
from mindformers_glm.log import logger
from mindformers_glm.serving.http.errors import ApiError, failed, too_long
from mindformers_glm.serving.http.sampling import Sampling, TokenMask
from mindformers_glm.serving.http.service import Served, Service
from mindformers_glm.serving.http.writer import Piece, Source, StopStrings, Writer
from mindformers_glm.tokenizers.reply import ToolCall


@dataclass
class Wanted:
    """One answer that is asked for. `draw` tells apart the random numbers of answers to one prompt."""

    prompt: list[int]
    source: Source
    end_ids: Sequence[int]
    draw: int = 0
    mask: TokenMask | None = None
    reuse_prefix: bool = True


@dataclass
class Answer:
    """What there is of one answer."""

    prompt_tokens: int
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    tokens: int = 0
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        """Takes one more piece."""
        self.text += piece.text
        self.reasoning += piece.reasoning
        self.calls += piece.calls
        if piece.choice is not None:
            self.tokens += 1
            self.choices.append(piece.choice)
        self.finish = piece.finish or self.finish


class Answers:
    """The answers of one HTTP request. Inside `async with` they are on their way; leaving cancels what is not over.

    Raises:
        ApiError: a prompt is too long (400), or the queue is full (429); nothing has begun then.
    """

    def __init__(self, service: Service, served: Served, wanted: Sequence[Wanted], sampling: Sampling) -> None:
        self._service, self._served, self._wanted, self._sampling = service, served, wanted, sampling
        self.answers = [Answer(len(item.prompt)) for item in wanted]
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._admission: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self.seed: int | None = None
        self._begin = time.perf_counter()
        self._last: list[float | None] = [None] * len(wanted)

    async def __aenter__(self) -> Answers:
        self._admission = self._service.admitted(self._served, len(self._wanted))
        self._admission.__enter__()
        try:
            self._submit()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._leave()

    def _leave(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._admission.__exit__(None, None, None)
        if any(answer.finish is None for answer in self.answers):
            self._service.metrics.count("glm:requests_cancelled_total")

    def _submit(self) -> None:
        loop, engine, sampling = asyncio.get_running_loop(), self._served.engine, self._sampling
        seed = sampling.drawn.get("seed")

        def put(piece: Piece) -> None:  # in the engine's thread
            self._service.mailbox.send(loop, self._pieces, piece)

        for index, item in enumerate(self._wanted):
            room = engine.max_length - len(item.prompt)
            limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
            end_ids = sorted({*(() if sampling.ignore_eos else item.end_ids), *sampling.stop_ids})
            writer = Writer(
                index,
                item.source,
                put,
                stops=StopStrings(sampling.stops, include=sampling.include_stop),
                end_ids=end_ids,
                hidden=sampling.stop_ids,
                limit=limit,
                min_tokens=sampling.min_tokens,
            )
            try:
                config = sampling.config(
                    engine.defaults,
                    end_ids=end_ids,
                    mask=item.mask,
                    stop=writer.stop,
                    limit=limit,
                )
                if seed is None and not config.greedy:
                    seed = config.drawn_seed()
                ticket = engine.submit(
                    item.prompt,
                    config.updated(seed=seed),
                    index=item.draw,
                    reuse_prefix=item.reuse_prefix,
                    adapter=self._served.adapter,
                    priority=sampling.priority,
                    listener=writer,
                )
            except UserError as error:
                raise ApiError(400, str(error), code="invalid_request") from error
            self._tickets.append(ticket)
        self.seed = seed
        seconds = self._service.settings.request_seconds
        late = ApiError(408, f"No answer within {seconds:g} s", code="request_timeout", may_retry=False)
        self._timer = loop.call_later(seconds, self._pieces.put_nowait, Piece(-1, error=late))
        self._service.metrics.count("vllm:prompt_tokens_total", sum(len(item.prompt) for item in self._wanted))

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of all answers as they come, each already added to its answer; ends when all are over.

        Raises:
            ApiError: an answer failed, or the time is up.
        """
        left = len(self._wanted)
        while left:
            piece = await self._pieces.get()
            if piece.error is not None:
                raise self._broken(piece.error)
            if piece.finish == "cancelled":
                raise ApiError(503, "The server stopped before the answer was over", code="draining", retry_after=5)
            self._note(piece)
            self.answers[piece.number].add(piece)
            left -= piece.finish is not None
            yield piece

    async def finished(self) -> list[Answer]:
        """All answers, when they are over. Raises as `pieces`."""
        async for _ in self.pieces():
            continue
        return self.answers

    def usage(self) -> dict[str, Any]:
        """Tokens, a prompt counted once however many answers it gets."""
        prompts = sum(len(item.prompt) for item in self._wanted if not item.draw)
        tokens = sum(answer.tokens for answer in self.answers)
        return {"prompt_tokens": prompts, "completion_tokens": tokens, "total_tokens": prompts + tokens}

    def _broken(self, error: BaseException) -> ApiError:
        self._service.metrics.count("glm:request_failures_total")
        if isinstance(error, ApiError):
            return error
        if isinstance(error, UserError):
            return ApiError(400, str(error), code="generation_failed")
        logger.error("a request failed: %s: %s", type(error).__name__, error, exc_info=error)
        return failed()

    def _note(self, piece: Piece) -> None:
        metrics, now, last = self._service.metrics, time.perf_counter(), self._last[piece.number]
        if piece.choice is not None:
            metrics.count("vllm:generation_tokens_total")
            if last is None:
                metrics.observe("vllm:time_to_first_token_seconds", now - self._begin)
            else:
                metrics.observe("vllm:inter_token_latency_seconds", now - last)
            self._last[piece.number] = now
        if piece.finish is not None:
            metrics.observe("vllm:e2e_request_latency_seconds", now - self._begin)
            reason = {"cancelled": "abort"}.get(piece.finish, piece.finish)
            metrics.count("vllm:request_success_total", finished_reason=reason)


def check_room(served: Served, prompt: Sequence[int], param: str) -> None:
    """Passes when a prompt leaves room for one token.

    Raises:
        ApiError: it does not, or it is empty.
    """
    if not prompt:
        raise ApiError(400, f"{param}: empty. Give at least one token", param=param, code="invalid_value")
    if len(prompt) >= served.engine.max_length:
        raise too_long(len(prompt), served.engine.max_length, param)
