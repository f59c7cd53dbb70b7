"""Answers over HTTP: JSON, errors, and server-sent events; what happens when a client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mindformers_glm.log import logger
from mindformers_glm.serving.http.errors import ApiError, failed

DONE = b"data: [DONE]\n\n"
_PING = b": still at it\n\n"


def dump(value: Any) -> bytes:
    """JSON in UTF-8; half a surrogate pair, which UTF-8 cannot carry, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(dump(value), status, headers, media_type="application/json")


def error_answer(error: ApiError) -> Response:
    """An error as OpenAI's clients read it."""
    return answer(error.body, error.status, error.headers)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response of `work`, which is cancelled when the client goes away before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return Response(status_code=499)  # nobody reads it
    finally:
        await _end(task, gone)


class EventStream(Response):
    """Events as they come, with a comment every `ping_seconds` of silence.

    `work` is entered already; it is left when the events are over, fail, or the client goes away.
    """

    def __init__(
        self, work: AbstractAsyncContextManager[Any], events: AsyncIterator[bytes], ping_seconds: float
    ) -> None:
        self._work, self._events, self._ping_seconds = work, events, ping_seconds
        super().__init__(None, 200, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, "text/event-stream")
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        pump = ping = gone = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            pump = asyncio.ensure_future(self._pump(send))
            ping = asyncio.ensure_future(self._ping(send))
            gone = asyncio.ensure_future(_gone(receive))
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(*(task for task in (pump, ping, gone) if task is not None))
            await self._work.__aexit__(None, None, None)

    async def _pump(self, send: Send) -> None:
        try:
            async for data in self._events:
                self._sent += 1
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except ApiError as error:
            await send({"type": "http.response.body", "body": event(error.body), "more_body": True})
        except OSError:
            return  # the client is gone
        except Exception as error:  # noqa: BLE001 - the headers are out: this is the way left to tell
            logger.error("a stream failed: %s: %s", type(error).__name__, error, exc_info=error)
            await send({"type": "http.response.body", "body": event(failed().body), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        while True:
            sent = self._sent
            await asyncio.sleep(self._ping_seconds)
            if sent == self._sent:
                await send({"type": "http.response.body", "body": _PING, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
