"""Before and after every request: its id, the key, how large it may be, which pages may ask, and the access log."""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import sys
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mindformers_glm.serving.http.errors import ApiError
from mindformers_glm.serving.http.responses import error_answer
from mindformers_glm.serving.http.service import Service

_IDENTITY = re.compile(r"[\w.\-]{1,64}", re.ASCII)
_ADMIN = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/stopService")
_OPEN = ("/health", "/ready", "/metrics", "/openapi.json", "/favicon.ico")
access_log = logging.getLogger("mindformers_glm.access")


class Guard:
    """ASGI around the application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, begin = Headers(scope=scope), time.perf_counter()
        given = headers.get("x-request-id", "")
        identity = given if _IDENTITY.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = identity
        told = {"status": 0, "bytes": 0}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = identity
                out["x-content-type-options"] = "nosniff"
                self._cors(headers, out)
            elif message["type"] == "http.response.body":
                told["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            if scope["method"] == "OPTIONS" and self._origin(headers):
                await _preflight(answer)
                return
            self._check_key(scope["path"], headers)
            bounded = _Bounded(receive, headers, self._service.settings.max_body)
            await self._app(scope, bounded, answer)
        except ApiError as error:
            if told["status"]:
                raise
            await error_answer(error)(scope, receive, answer)
        finally:
            self._note(scope, identity, told, time.perf_counter() - begin)

    def _check_key(self, path: str, headers: Headers) -> None:
        settings = self._service.settings
        if path in _ADMIN:
            if not settings.admin_keys:
                raise ApiError(403, f"{path} needs a server that was started with --admin_key", code="no_admin_key")
            allowed = settings.admin_keys
        elif path.startswith(_OPEN) or path == "/" or path.startswith("/page/"):
            return
        else:
            allowed = (*settings.keys, *settings.admin_keys) if settings.keys else ()
        if not allowed:
            return
        given = headers.get("authorization", "")
        key = given[7:].strip() if given[:7].lower() == "bearer " else headers.get("x-api-key", "")
        fits = [hmac.compare_digest(key.encode(), known.encode()) for known in allowed]  # all of them, always
        if not any(fits):
            fault = "Incorrect API key provided" if key else "No API key: send Authorization: Bearer KEY"
            raise ApiError(401, fault, code="invalid_api_key", may_retry=False)

    def _origin(self, headers: Headers) -> str | None:
        origin = headers.get("origin")
        allowed = self._service.settings.cors_origins
        return origin if origin and (origin in allowed or "*" in allowed) else None

    def _cors(self, headers: Headers, out: MutableHeaders) -> None:
        origin = self._origin(headers)
        if origin:
            out["access-control-allow-origin"] = origin
            out["access-control-allow-methods"] = "GET, POST"
            out["access-control-allow-headers"] = headers.get(
                "access-control-request-headers", "authorization, content-type"
            )
            out["access-control-expose-headers"] = "x-request-id, retry-after"
            out["vary"] = "Origin"

    def _note(self, scope: Scope, identity: str, told: dict[str, int], seconds: float) -> None:
        path = scope["path"]
        known = path if path in KNOWN_PATHS else "other"
        self._service.metrics.count("glm:http_responses_total", path=known, status=str(told["status"]))
        if not self._service.settings.log_requests:
            return
        client = scope.get("client") or ("", 0)
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": identity,
            "client": client[0],
            "method": scope["method"],
            "path": path[:200],
            **told,
            "seconds": round(seconds, 6),
        }
        access_log.info(json.dumps(line))


KNOWN_PATHS: set[str] = set()


def set_up_access_log() -> None:
    """Lines of JSON on the standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access_log.handlers[:] = [handler]
    access_log.propagate = False
    access_log.setLevel(logging.INFO)


class _Bounded:
    """Receives a body of at most `most` bytes; `__call__` raises ApiError (413) beyond it."""

    def __init__(self, receive: Receive, headers: Headers, most: int) -> None:
        self._receive, self._most, self._got = receive, most, 0
        stated = headers.get("content-length", "")
        if stated.isdigit() and int(stated[:18]) > most:
            raise self._too_large()

    async def __call__(self) -> Message:
        message = await self._receive()
        self._got += len(message.get("body", b""))
        if self._got > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._most} bytes", code="body_too_large", may_retry=False)


async def _preflight(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
