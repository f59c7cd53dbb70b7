"""Text and ids: /tokenize, /detokenize, /tokenizer_info, and how a single token is told."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mindformers_glm.generation.sampling import Choice
from mindformers_glm.serving.http.body import Body, flag, ids, parse, text
from mindformers_glm.serving.http.errors import wrong
from mindformers_glm.serving.http.messages import read_chat, read_tools
from mindformers_glm.serving.http.responses import answer
from mindformers_glm.serving.http.service import Service
from mindformers_glm.tokenizers.chat import Renderer
from mindformers_glm.tokenizers.glm import GLMTokenizer


def encode(tokenizer: GLMTokenizer, words: str, *, add_special_tokens: bool = True) -> list[int]:
    """Ids of a text from outside: nothing in it becomes a special token, whatever the tokenizer's settings are."""
    prefix = tokenizer.text_prefix() if add_special_tokens else []
    return [*prefix, *tokenizer.vocabulary.encode(words)]


def token_bytes(tokenizer: GLMTokenizer, token: int) -> bytes:
    """The bytes of one token; a special token's are its name."""
    raw = tokenizer.vocabulary.bytes_of(token)
    if raw is not None:
        return raw
    return tokenizer.vocabulary.written(token, show_specials=True).replace("\u2581", " ").encode("utf-8", "replace")


def token_text(tokenizer: GLMTokenizer, token: int) -> str:
    """One token as text, different for different tokens as far as that can be: bytes that are no text are escaped."""
    raw = token_bytes(tokenizer, token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def chat_logprobs(tokenizer: GLMTokenizer, choices: list[Choice]) -> list[dict[str, Any]]:
    """`logprobs.content` of a chat."""
    return [
        {
            **_told(tokenizer, choice.token, choice.logprob or 0.0),
            "top_logprobs": [_told(tokenizer, token, logprob) for token, logprob in choice.best],
        }
        for choice in choices
    ]


def _told(tokenizer: GLMTokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_text(tokenizer, token),
        "logprob": max(logprob, -9999.0),
        "bytes": list(token_bytes(tokenizer, token)),
    }


def make_endpoints(service: Service) -> dict[str, Any]:
    """The endpoints by name."""

    async def tokenize(request: Request) -> Response:
        body = Body(parse(await request.body()))
        served = service.model(body.take("model", text))
        tokenizer = served.tokenizer
        add = body.take("add_special_tokens", flag, True)
        with_pieces = body.take("return_token_strs", flag, False)
        body.refuse("continue_final_message", "not here", False)
        messages = body.take("messages", _anything)
        if messages is not None:
            tools = read_tools(body)
            opens = body.take("add_generation_prompt", flag, True)
            said = read_chat(messages, service.settings.max_messages)
            tokens = Renderer(tokenizer).prompt(said, tools=tools, open_reply=opens)
        else:
            tokens = encode(tokenizer, body.need("prompt", text), add_special_tokens=add)
        body.finish()
        told: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": served.engine.max_length}
        told["token_strs"] = [token_text(tokenizer, token) for token in tokens] if with_pieces else None
        return answer(told)

    async def detokenize(request: Request) -> Response:
        body = Body(parse(await request.body()))
        served = service.model(body.take("model", text))
        tokens = body.need("tokens", ids(served.engine.vocab_size))
        skip = body.take("skip_special_tokens", flag, False)
        body.finish()
        words = served.tokenizer.decode(tokens, skip_special_tokens=skip)
        return answer({"prompt": words})

    async def tokenizer_info(request: Request) -> Response:
        tokenizer = service.model(None).tokenizer
        name = tokenizer.convert_ids_to_tokens
        return answer(
            {
                "tokenizer_class": type(tokenizer).__name__,
                "vocab_size": service.base.engine.vocab_size,
                "eos_token": name(tokenizer.eos_token_id),
                "eos_token_id": tokenizer.eos_token_id,
                "bos_token": None,
                "pad_token": name(tokenizer.pad_token_id),
                "pad_token_id": tokenizer.pad_token_id,
                "unk_token": name(tokenizer.unk_token_id),
                "prefix_token_ids": tokenizer.text_prefix(),
                "stop_token_ids": list(tokenizer.stop_ids),
                "chat_format": tokenizer.chat_format,
                "chat_template": None,
                "model_max_length": service.base.engine.max_length,
            }
        )

    return {"tokenize": tokenize, "detokenize": detokenize, "tokenizer_info": tokenizer_info}


def _anything(value: Any) -> Any:
    if not isinstance(value, list):
        raise wrong("messages", value, "Give a list of messages.")
    return value
