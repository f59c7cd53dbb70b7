"""The application: every path, and what an error becomes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mindformers_glm.errors import UserError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.log import logger
from mindformers_glm.serving.http import adapters, chat, completions, tokens
from mindformers_glm.serving.http.errors import ApiError, failed
from mindformers_glm.serving.http.fastchat import worker_routes
from mindformers_glm.serving.http.guard import KNOWN_PATHS, Guard
from mindformers_glm.serving.http.openapi import openapi_routes
from mindformers_glm.serving.http.page import page_routes
from mindformers_glm.serving.http.responses import answer, error_answer
from mindformers_glm.serving.http.service import Service

_TIMED = re.compile(r"\d{1,4}")


def build_app(service: Service, *, stop: Callable[[], None] = lambda: None) -> ASGIApp:
    """The ASGI application over a service; `stop` begins to drain the server."""
    text_ids = tokens.make_endpoints(service)
    lora = adapters.make_endpoints(service)
    routes = [
        Route("/v1/models", _models(service), methods=["GET"]),
        Route("/v1/models/{name:path}", _model(service), methods=["GET"]),
        Route("/v1/chat/completions", chat.make_endpoint(service), methods=["POST"]),
        Route("/v1/completions", completions.make_endpoint(service), methods=["POST"]),
        Route("/v1/embeddings", _no_embeddings, methods=["POST"]),
        Route("/tokenize", text_ids["tokenize"], methods=["POST"]),
        Route("/detokenize", text_ids["detokenize"], methods=["POST"]),
        Route("/tokenizer_info", text_ids["tokenizer_info"], methods=["GET"]),
        Route("/v1/load_lora_adapter", lora["load"], methods=["POST"]),
        Route("/v1/unload_lora_adapter", lora["unload"], methods=["POST"]),
        *_health(service),
        Route("/metrics", _metrics(service), methods=["GET"]),
        Route("/stopService", _stop(stop), methods=["GET", "POST"]),
        *openapi_routes(service),
        *(page_routes(service) if service.settings.has_page else []),
        *(worker_routes(service) if service.settings.controller else []),
    ]
    KNOWN_PATHS.update(route.path for route in routes if isinstance(route, Route))
    handlers: Any = {ApiError: _api_error, UserError: _user_error, HTTPException: _http_error, Exception: _crash}
    handlers[ClientDisconnect] = _left
    return Guard(Starlette(routes=routes, exception_handlers=handlers), service)


# --- models --------------------------------------------------------------------------------------------------------


def _models(service: Service) -> Any:
    async def models(request: Request) -> Response:
        service.check_open()
        return answer({"object": "list", "data": [_told(service, name) for name in service.models]})

    return models


def _model(service: Service) -> Any:
    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        service.model(name)
        return answer(_told(service, name))

    return model


def _told(service: Service, name: str) -> dict[str, Any]:
    served = service.models[name]
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "mindformers_glm",
        "root": served.parent or served.name,
        "parent": served.parent,
        "max_model_len": served.engine.max_length,
    }


async def _no_embeddings(request: Request) -> Response:
    raise ApiError(
        404,
        "This model generates text and has no embeddings; serve an embedding model beside it",
        code="unsupported_endpoint",
    )


# --- how it stands -------------------------------------------------------------------------------------------------


def _health(service: Service) -> list[Route]:
    async def health(request: Request) -> Response:
        """Alive: loaded, and not failed."""
        return answer({"status": service.state}, 200 if service.state in ("ready", "draining") else 503)

    async def ready(request: Request) -> Response:
        """Requests are taken."""
        return answer({"status": service.state}, 200 if service.state == "ready" else 503)

    async def timed(request: Request) -> Response:
        """An answer of one token within so many seconds."""
        seconds = request.path_params["seconds"]
        if not _TIMED.fullmatch(seconds) or not int(seconds):
            raise ApiError(404, "Give whole seconds: /health/timed-5", code="invalid_value")
        service.check_open()
        engine, begin = service.base.engine, time.perf_counter()
        prompt = service.base.tokenizer.text_prefix() or [service.base.tokenizer.eos_token_id]
        ticket = engine.submit(prompt, GenerationConfig(max_new_tokens=1))
        try:
            await asyncio.wait_for(asyncio.to_thread(ticket.results), int(seconds))
        except (asyncio.TimeoutError, UserError):  # noqa: UP041 - another class in Python 3.10
            ticket.cancel()
            raise ApiError(503, f"No token within {seconds} s", code="slow", retry_after=5) from None
        return answer({"status": "ready", "seconds": round(time.perf_counter() - begin, 4)})

    return [
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/health/timed-{seconds}", timed, methods=["GET"]),
    ]


def _metrics(service: Service) -> Any:
    async def metrics(request: Request) -> Response:
        return PlainTextResponse(service.figures(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics


def _stop(stop: Callable[[], None]) -> Any:
    async def stop_service(request: Request) -> Response:
        stop()
        return answer({"status": "draining"})

    return stop_service


# --- errors --------------------------------------------------------------------------------------------------------


async def _api_error(request: Request, error: Exception) -> Response:
    return error_answer(error) if isinstance(error, ApiError) else error_answer(failed())


async def _user_error(request: Request, error: Exception) -> Response:
    return error_answer(ApiError(400, str(error), code="invalid_request"))


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    told = {404: f"There is no {request.url.path[:200]} here", 405: f"{request.method} is not for this path"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(status)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    fault = ApiError(status, told.get(status, "The request cannot be served"), code=code)
    return answer(fault.body, status, {**headers, **fault.headers})


async def _crash(request: Request, error: Exception) -> Response:
    logger.error("a request failed: %s: %s", type(error).__name__, error, exc_info=error)
    return error_answer(failed())


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
