"""/v1/completions: texts or ids that are continued, with echo and log-probabilities."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from mindformers_glm.generation.sampling import Choice
from mindformers_glm.serving.http.answers import Answer, Answers, Wanted, check_room
from mindformers_glm.serving.http.body import Body, flag, ids, parse, text, whole
from mindformers_glm.serving.http.errors import refused, wrong
from mindformers_glm.serving.http.responses import DONE, EventStream, answer, event, unless_gone
from mindformers_glm.serving.http.sampling import Sampling, check_lengths, read_sampling
from mindformers_glm.serving.http.service import Served, Service
from mindformers_glm.serving.http.structured import Wish, constrain, read_wish
from mindformers_glm.serving.http.tokens import encode, token_text
from mindformers_glm.serving.http.writer import PlainText

_USUAL_TOKENS = 16  # OpenAI's


@dataclass
class CompletionRequest:
    """Prompts to be continued. `candidates` answers are made for each, and the best `sampling.n` told."""

    served: Served
    prompts: list[list[int]]
    texts: list[str]
    sampling: Sampling
    candidates: int = 1
    echo: bool = False
    logprobs: int | None = None
    wish: Wish | None = None
    identity: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))


def make_endpoint(service: Service) -> Any:
    """The endpoint."""

    async def completions(request: Request) -> Response:
        service.check_open()
        asked = read_request(service, parse(await request.body()))
        if asked.sampling.max_tokens == 0:
            return await unless_gone(request, _told_prompts(service, asked))
        answers = Answers(service, asked.served, _wanted(asked), asked.sampling)
        if asked.sampling.stream:
            await answers.__aenter__()
            return EventStream(answers, _events(asked, answers), service.settings.ping_seconds)

        async def whole_answer() -> Response:
            async with answers:
                echoed = await _echoed(asked)
                found = await answers.finished()
            choices = [
                _choice(asked, place, best, echoed)
                for place in range(len(asked.prompts))
                for best in _best(asked, found[place * asked.candidates : (place + 1) * asked.candidates])
            ]
            for index, choice in enumerate(choices):
                choice["index"] = index
            return answer({**_head(asked), "choices": choices, "usage": answers.usage()})

        return await unless_gone(request, whole_answer())

    return completions


def read_request(service: Service, data: dict[str, Any]) -> CompletionRequest:
    """The continuation that a body asks for.

    Raises:
        ApiError: a field that is missing, wrong, unknown, or not here.
    """
    body = Body(data)
    served = service.model(body.take("model", text))
    most = service.settings.max_answers
    sampling = read_sampling(
        body, served.engine.vocab_size, most_answers=most, has_priorities=service.settings.has_priorities
    )
    add = body.take("add_special_tokens", flag, True)
    prompts = _prompts(body.need("prompt", lambda value: value), served, add)
    echo = body.take("echo", flag, False)
    sampling.max_tokens = body.take("max_tokens", whole(0), _USUAL_TOKENS)
    if sampling.max_tokens == 0 and not echo:
        raise wrong("max_tokens", 0, "Only with echo: true.")
    check_lengths(sampling)
    logprobs = body.take("logprobs", whole(0, 20))
    candidates = body.take("best_of", whole(1, most), sampling.n)
    if candidates < sampling.n:
        raise wrong("best_of", candidates, f"It is below n ({sampling.n}).")
    if sampling.stream and candidates > sampling.n:
        raise refused("best_of", "not together with stream: which is best is known at the end")
    if len(prompts) * candidates > most:
        raise wrong("prompt", len(prompts), f"Prompts times answers: at most {most} in one request.")
    wish = read_wish(body)
    body.refuse("suffix", "this model continues a text and fills no gaps", "")
    body.finish()
    for place, prompt in enumerate(prompts):
        check_room(served, prompt, "prompt" if len(prompts) == 1 else f"prompt.{place}")
    sampling.logprobs = logprobs is not None or candidates > sampling.n
    sampling.top_logprobs = logprobs or 0
    texts = [served.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts] if echo else []
    return CompletionRequest(served, prompts, texts, sampling, candidates, echo, logprobs, wish)


def _prompts(value: Any, served: Served, add_special_tokens: bool) -> list[list[int]]:
    """Rows of ids, from a text, ids, or a list of either."""
    if isinstance(value, str):
        items: list[Any] = [value]
    elif isinstance(value, list) and value and isinstance(value[0], int):
        items = [value]
    elif isinstance(value, list) and value:
        items = value
    else:
        raise wrong("prompt", value, "Give a text, token ids, or a list of either.")
    read = ids(served.engine.vocab_size)
    prompts = []
    for place, item in enumerate(items):
        if isinstance(item, str):
            prompts.append(encode(served.tokenizer, item, add_special_tokens=add_special_tokens))
            continue
        try:
            prompts.append(read(item))
        except ValueError as error:
            raise wrong("prompt" if len(items) == 1 else f"prompt.{place}", item, str(error)) from error
    return prompts


def _wanted(asked: CompletionRequest) -> list[Wanted]:
    tokenizer = asked.served.tokenizer
    _, constraint = constrain(asked.served, asked.wish, asked.sampling, is_chat=False)
    skip = asked.sampling.skip_special_tokens
    return [
        Wanted(
            prompt,
            PlainText(tokenizer, after=prompt, skip_special_tokens=skip),
            [*asked.served.engine.defaults.stop_ids, tokenizer.eos_token_id],
            draw=draw,
            mask=None if constraint is None else constraint(),
        )
        for prompt in asked.prompts
        for draw in range(asked.candidates)
    ]


# --- what was said in the prompt -----------------------------------------------------------------------------------


async def _echoed(asked: CompletionRequest) -> list[list[Choice]] | None:
    """Each prompt's tokens with their log-probabilities, where both were asked for."""
    if not asked.echo or asked.logprobs is None:
        return None
    engine = asked.served.engine
    told = []
    for prompt in asked.prompts:
        first = Choice(prompt[0])
        if len(prompt) == 1:
            told.append([first])
            continue
        [score] = await anyio.to_thread.run_sync(
            partial(engine.score, prompt[:1], [prompt[1:]], top_logprobs=asked.logprobs, adapter=asked.served.adapter),
            abandon_on_cancel=True,
        )
        best = score.best or [()] * len(score.logprobs)
        rest = zip(prompt[1:], score.logprobs, best, strict=True)
        told.append([first, *(Choice(token, float(logprob), top) for token, logprob, top in rest)])
    return told


async def _told_prompts(service: Service, asked: CompletionRequest) -> Response:
    """The answer to max_tokens 0: the prompts, and nothing new."""
    if asked.sampling.stream:
        raise refused("stream", "not together with max_tokens 0")
    with service.admitted(asked.served, len(asked.prompts)):
        echoed = await _echoed(asked)
    choices = []
    for place in range(len(asked.prompts)):
        nothing = Answer(len(asked.prompts[place]), finish="length")
        choices.append({**_choice(asked, place, nothing, echoed), "index": place})
    tokens = sum(map(len, asked.prompts))
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return answer({**_head(asked), "choices": choices, "usage": usage})


# --- answers -----------------------------------------------------------------------------------------------------


def _head(asked: CompletionRequest) -> dict[str, Any]:
    return {
        "id": asked.identity,
        "object": "text_completion",
        "created": asked.created,
        "model": asked.served.name,
        "system_fingerprint": None,
    }


def _best(asked: CompletionRequest, found: Sequence[Answer]) -> list[Answer]:
    if len(found) == asked.sampling.n:
        return list(found)

    def goodness(item: Answer) -> float:
        return sum(choice.logprob or 0.0 for choice in item.choices) / max(len(item.choices), 1)

    return sorted(found, key=goodness, reverse=True)[: asked.sampling.n]


def _choice(asked: CompletionRequest, place: int, found: Answer, echoed: list[list[Choice]] | None) -> dict[str, Any]:
    before = asked.texts[place] if asked.echo else ""
    logprobs = None
    if asked.logprobs is not None:
        choices = [*(echoed[place] if echoed else []), *found.choices]
        logprobs = _logprobs(asked, choices, 0)
    return {"index": place, "text": before + found.text, "logprobs": logprobs, "finish_reason": found.finish}


def _logprobs(asked: CompletionRequest, choices: Sequence[Choice], offset: int) -> dict[str, Any]:
    tokenizer = asked.served.tokenizer
    told: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    for choice in choices:
        word = token_text(tokenizer, choice.token)
        told["text_offset"].append(offset)
        told["tokens"].append(word)
        told["token_logprobs"].append(choice.logprob)
        best: dict[str, float] | None = None
        if choice.logprob is not None and asked.logprobs:
            best = {}
            for token, logprob in choice.best:
                best.setdefault(token_text(tokenizer, token), logprob)
            best.setdefault(word, choice.logprob)
        told["top_logprobs"].append(best)
        offset += len(word)
    return told


async def _events(asked: CompletionRequest, answers: Answers) -> AsyncIterator[bytes]:
    head, offsets = _head(asked), [0] * len(answers.answers)
    if asked.echo:
        echoed = await _echoed(asked)
        for index in range(len(answers.answers)):
            place = index // asked.candidates
            logprobs = None if echoed is None else _logprobs(asked, echoed[place], 0)
            offsets[index] = len(asked.texts[place])
            choice = {"index": index, "text": asked.texts[place], "logprobs": logprobs, "finish_reason": None}
            yield event({**head, "choices": [choice]})
    async for piece in answers.pieces():
        logprobs = None
        if asked.logprobs is not None and piece.choice is not None:
            logprobs = _logprobs(asked, [piece.choice], offsets[piece.number])
            offsets[piece.number] += len(logprobs["tokens"][0])
        if piece.text or logprobs or piece.finish:
            choice = {"index": piece.number, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}
            yield event({**head, "choices": [choice]})
    if asked.sampling.include_usage:
        yield event({**head, "choices": [], "usage": answers.usage()})
    yield DONE
