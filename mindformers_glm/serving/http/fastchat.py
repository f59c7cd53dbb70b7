"""A worker behind FastChat's controller: the paths that a worker has, and the controller's register.

FastChat's API server writes a conversation as one text, from a template that the worker hands out, and the worker reads
it back. Our template's marks hold random digits that no client sees, so a message cannot hold a mark: text never
becomes a role. The first mark, which the template puts at the very beginning, tells which digits count; a restarted
worker thus understands servers that remember its earlier template. Facts of the protocol: FastChat 0.2.36.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mindformers_glm.errors import UserError
from mindformers_glm.log import logger
from mindformers_glm.serving.http.answers import Answers, Wanted, check_room
from mindformers_glm.serving.http.body import Body, flag, parse, text, whole
from mindformers_glm.serving.http.errors import ApiError, failed
from mindformers_glm.serving.http.responses import EventStream, answer, dump, unless_gone
from mindformers_glm.serving.http.sampling import Sampling, read_sampling
from mindformers_glm.serving.http.service import Served, Service
from mindformers_glm.serving.http.tokens import encode
from mindformers_glm.serving.http.writer import ChatReply, PlainText, Source
from mindformers_glm.tokenizers.chat import Renderer

BEAT_SECONDS = 45.0  # the controller forgets a worker after 90 s
_CODES = {400: 40001, 404: 40301, 429: 40302, 503: 40302, 408: 50001}
_CONTEXT, _INTERNAL = 40303, 50001
_MARK = re.compile(r"<\|([0-9a-f]{24}):system\|>")
_SINGLE = 4  # SeparatorStyle.NO_COLON_SINGLE: role and message one after the other
_PUBLISHED = re.compile(r"<\|(system|user|assistant|observation)\|>\n? ?")  # ChatGLM3's, in FastChat's own template


def template(name: str) -> dict[str, Any]:
    """The conversation template that the worker hands out, with marks of its own."""
    digits = secrets.token_hex(12)
    return {
        "name": name,
        "system_template": f"<|{digits}:system|>{{system_message}}",
        "system_message": "",
        "roles": [f"<|{digits}:user|>", f"<|{digits}:assistant|>"],
        "messages": [],
        "offset": 0,
        "sep_style": _SINGLE,
        "sep": "",
        "sep2": None,
        "stop_str": None,
        "stop_token_ids": [],
    }


def read_prompt(prompt: str, *, knows_roles: bool = False) -> list[dict[str, str]] | None:
    """The messages that a text of a template stands for; None where it is plain text.

    With `knows_roles` the text of FastChat's own ChatGLM3 template is read too, which its web page sends; there a
    message that holds a role's name ends, as with FastChat's worker.
    """
    begin = _MARK.match(prompt)
    if begin is not None:
        pieces = re.split(rf"<\|{begin.group(1)}:(system|user|assistant)\|>", prompt)
    elif knows_roles and _PUBLISHED.match(prompt):
        pieces = _PUBLISHED.split(prompt)
    else:
        return None
    said = [
        {"role": role.replace("observation", "tool"), "content": words}
        for role, words in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    if said and said[-1] == {"role": "assistant", "content": ""}:
        said.pop()
    return [message for message in said if message["content"] or message["role"] != "system"]


def worker_routes(service: Service) -> list[Route]:
    """The paths that controller and API server ask a worker for."""
    conversation = template("mindformers_glm")

    async def status(request: Request) -> Response:
        return answer({"model_names": list(service.models), "speed": 1, "queue_length": service.open_answers})

    async def conv(request: Request) -> Response:
        return answer({"conv": conversation})

    async def details(request: Request) -> Response:
        return answer({"context_length": service.base.engine.max_length})

    async def count(request: Request) -> Response:
        body = parse(await request.body())
        try:
            prompt, _ = _prompt(service.model(body.get("model")), str(body.get("prompt", "")))
        except (ApiError, UserError) as error:
            return answer(_fault(error))
        return answer({"count": len(prompt), "error_code": 0})

    async def embeddings(request: Request) -> Response:
        return answer({"text": "This model has no embeddings", "error_code": _CODES[400]})

    async def generate(request: Request) -> Response:
        async def last() -> Response:
            told: dict[str, Any] = {}
            try:
                answers, before = _begin(service, parse(await request.body()))
                async with answers:
                    async for told in _told(answers, before):  # noqa: B007 - the last one is the answer
                        continue
            except (ApiError, UserError) as error:
                told = _fault(error)
            return answer(told)

        return await unless_gone(request, last())

    async def generate_stream(request: Request) -> Response:
        try:
            answers, before = _begin(service, parse(await request.body()))
            await answers.__aenter__()
        except (ApiError, UserError) as error:
            return Response(dump(_fault(error)) + b"\0", media_type="application/octet-stream")
        return EventStream(answers, _lines(answers, before), 1e9)  # no pings: every piece is JSON and a zero byte

    found = {
        "/worker_get_status": status,
        "/worker_get_conv_template": conv,
        "/model_details": details,
        "/count_token": count,
        "/worker_get_embeddings": embeddings,
        "/worker_generate": generate,
        "/worker_generate_stream": generate_stream,
    }
    return [Route(path, endpoint, methods=["POST"]) for path, endpoint in found.items()]


def _prompt(served: Served, words: str) -> tuple[list[int], Source]:
    """Ids of a prompt, and how what follows is read."""
    tokenizer = served.tokenizer
    messages = read_prompt(words, knows_roles=tokenizer.rules.has_roles)
    if messages is None:
        ids = encode(tokenizer, words)
        return ids, PlainText(tokenizer, after=ids)
    return Renderer(tokenizer).prompt(messages), ChatReply(tokenizer)


def _begin(service: Service, data: dict[str, Any]) -> tuple[Answers, str]:
    """The answer that a worker is asked for, and the text that comes before it."""
    served = service.model(data.get("model"))
    given = {name: data.get(name) for name in _TAKEN}
    if isinstance(given["temperature"], (int, float)) and given["temperature"] < 1e-5:
        given["temperature"] = 0
    body = Body({**given, "stop": data.get("stop") or None})
    sampling = read_sampling(body, served.engine.vocab_size, most_answers=1)
    sampling.max_tokens = body.take("max_new_tokens", whole(1))
    words, echo = body.need("prompt", text), body.take("echo", flag, False)
    prompt, source = _prompt(served, words)
    check_room(served, prompt, "prompt")
    ends = [*served.tokenizer.stop_ids, *served.engine.defaults.stop_ids]
    wanted = Wanted(prompt, source, ends)
    return Answers(service, served, [wanted], _alone(sampling)), words if echo else ""


def _alone(sampling: Sampling) -> Sampling:
    sampling.n, sampling.stream = 1, False
    return sampling


async def _told(answers: Answers, before: str) -> AsyncIterator[dict[str, Any]]:
    """All text so far, after every piece of it."""
    [found] = answers.answers
    async for piece in answers.pieces():
        if piece.text or piece.finish:
            usage = {**answers.usage(), "prompt_tokens": found.prompt_tokens}
            yield {
                "text": before + found.text,
                "error_code": 0,
                "usage": usage,
                "finish_reason": piece.finish,
                "logprobs": None,
            }


async def _lines(answers: Answers, before: str) -> AsyncIterator[bytes]:
    try:
        async for told in _told(answers, before):
            yield dump(told) + b"\0"
    except ApiError as error:
        yield dump(_fault(error)) + b"\0"


def _fault(error: Exception) -> dict[str, Any]:
    fault = error if isinstance(error, ApiError) else ApiError(400, str(error))
    code = _CONTEXT if fault.code == "context_length_exceeded" else _CODES.get(fault.status, _INTERNAL)
    return {"text": fault.message or failed().message, "error_code": code}


_TAKEN = (
    *("temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "stop_token_ids", "max_new_tokens", "prompt", "echo"),
)


class Registration:
    """Tells a controller of this worker, and again every 45 s; a controller that is away is asked until it is back."""

    def __init__(self, service: Service, controller: str, address: str) -> None:
        self._service, self._controller, self._address = service, controller.rstrip("/"), address
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fastchat", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def end(self) -> None:
        """Says no more; the controller forgets this worker."""
        self._ended.set()

    def _run(self) -> None:
        known = told = False
        while not self._ended.is_set():
            try:
                known = self._beat() if known else self._register()
                told = False
            except (OSError, ValueError) as error:
                if not told:
                    logger.warning("the controller %s does not answer (%s); asked again", self._controller, error)
                known, told = False, True
            self._ended.wait(BEAT_SECONDS if known else 3.0)

    def _register(self) -> bool:
        status = {"model_names": list(self._service.models), "speed": 1, "queue_length": self._service.open_answers}
        self._ask(
            "/register_worker",
            {
                "worker_name": self._address,
                "check_heart_beat": True,
                "worker_status": status,
                "multimodal": False,
            },
        )
        return True

    def _beat(self) -> bool:
        told = self._ask(
            "/receive_heart_beat", {"worker_name": self._address, "queue_length": self._service.open_answers}
        )
        return bool(isinstance(told, dict) and told.get("exist"))

    def _ask(self, path: str, value: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._controller + path, json.dumps(value).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read() or b"null")
