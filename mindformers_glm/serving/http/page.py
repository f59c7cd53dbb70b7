"""The page to talk to the model: static files, and headers that keep it from loading anything from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mindformers_glm.serving.http.errors import ApiError
from mindformers_glm.serving.http.service import Service

_FOLDER = Path(__file__).resolve().parent / "static"
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "settings.js": "text/javascript; charset=utf-8",
    "markdown.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
    "store.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes(service: Service) -> list[Route]:
    """The page at / and its files below /page."""

    async def page(request: Request) -> Response:
        return _file("index.html")

    async def file(request: Request) -> Response:
        return _file(request.path_params["name"])

    return [Route("/", page, methods=["GET"]), Route("/page/{name}", file, methods=["GET"])]


def _file(name: str) -> Any:
    if name not in _FILES or not (_FOLDER / name).is_file():
        raise ApiError(404, "There is no such file here", code="not_found")
    return Response((_FOLDER / name).read_bytes(), 200, _HEADERS, media_type=_FILES[name])
