"""/openapi.json: what the server understands, for tools that generate clients or try to break it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mindformers_glm.serving.http.responses import answer
from mindformers_glm.serving.http.service import Service
from mindformers_glm.version import __version__

Schema = dict[str, Any]


def openapi_routes(service: Service) -> list[Route]:
    """The document."""

    async def openapi(request: Request) -> Response:
        return answer(document(has_keys=bool(service.settings.keys)))

    return [Route("/openapi.json", openapi, methods=["GET"])]


def document(*, has_keys: bool = False) -> Schema:
    """The OpenAPI 3.1 document."""
    paths: Schema = {
        "/v1/models": {"get": _read("the models that are served", "Models")},
        "/v1/models/{name}": {"get": {**_read("one of them", "Model"), "parameters": [_name("name")]}},
        "/v1/chat/completions": {"post": _ask("the next message of a chat", "ChatRequest", "ChatAnswer", streams=True)},
        "/v1/completions": {
            "post": _ask("texts or ids that are continued", "CompletionRequest", "CompletionAnswer", streams=True)
        },
        "/tokenize": {"post": _ask("ids of a text or chat", "TokenizeRequest", "Tokens")},
        "/detokenize": {"post": _ask("text of ids", "DetokenizeRequest", "Prompt")},
        "/tokenizer_info": {"get": _read("what the tokenizer is", "Anything")},
        "/health": {"get": _read("200 while the server lives", "State")},
        "/ready": {"get": _read("200 while requests are taken", "State")},
        "/metrics": {
            "get": {"summary": "figures for Prometheus", "responses": {"200": _text("text/plain"), **_FAULTS}}
        },
    }
    schemas = {**_SCHEMAS, "ChatRequest": _chat(), "CompletionRequest": _completion()}
    told: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "mindformers_glm", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if has_keys:
        told["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        told["security"] = [{"key": []}]
    return told


def _read(summary: str, schema: str) -> Schema:
    return {"summary": summary, "responses": {"200": _json(schema), **_FAULTS}}


def _ask(summary: str, request: str, reply: str, *, streams: bool = False) -> Schema:
    found = _json(reply)
    if streams:
        found["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    body = {"required": True, "content": _json(request)["content"]}
    return {"summary": summary, "requestBody": body, "responses": {"200": found, **_FAULTS}}


def _json(schema: str) -> Schema:
    return {"description": schema, "content": {"application/json": {"schema": _ref(schema)}}}


def _text(kind: str) -> Schema:
    return {"description": "text", "content": {kind: {"schema": {"type": "string"}}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _name(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _number(least: float, most: float) -> Schema:
    return {"type": ["number", "null"], "minimum": least, "maximum": most}


def _whole(least: int, most: int = 2**53) -> Schema:
    return {"type": ["integer", "null"], "minimum": least, "maximum": most}


_FLAG: Schema = {"type": ["boolean", "null"]}
_WORD: Schema = {"type": ["string", "null"]}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}


def _sampling() -> Schema:
    return {
        "model": _WORD,
        "temperature": _number(0, 2),
        "top_p": _number(0, 1),
        "top_k": _whole(-1),
        "repetition_penalty": _number(0.0001, 10),
        "presence_penalty": _number(-2, 2),
        "frequency_penalty": _number(-2, 2),
        "seed": {"type": ["integer", "null"]},
        "n": _whole(1, 64),
        "stop": {
            "anyOf": [
                {"type": ["string", "null"], "minLength": 1},
                {"type": "array", "maxItems": 16, "items": {"type": "string", "minLength": 1}},
            ]
        },
        "stop_token_ids": _IDS,
        "min_tokens": _whole(0),
        "ignore_eos": _FLAG,
        "include_stop_str_in_output": _FLAG,
        "skip_special_tokens": _FLAG,
        "logit_bias": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
        "stream": _FLAG,
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": _FLAG},
            "additionalProperties": False,
        },
        "user": _WORD,
        "response_format": {"type": ["object", "null"]},
        "guided_json": {"type": ["object", "string", "null"]},
        "guided_regex": _WORD,
        "guided_choice": {"type": ["array", "null"], "items": {"type": "string"}},
        "guided_grammar": _WORD,
        "structured_outputs": {"type": ["object", "null"]},
    }


def _chat() -> Schema:
    properties = {
        **_sampling(),
        "messages": {"type": "array", "minItems": 1, "items": _ref("Message")},
        "max_tokens": _whole(1),
        "max_completion_tokens": _whole(1),
        "logprobs": _FLAG,
        "top_logprobs": _whole(0, 20),
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "tool_choice": {"type": ["string", "object", "null"]},
        "parallel_tool_calls": _FLAG,
    }
    return {"type": "object", "required": ["messages"], "properties": properties}


def _completion() -> Schema:
    prompt = {"anyOf": [{"type": "string"}, _IDS, {"type": "array", "items": {"anyOf": [{"type": "string"}, _IDS]}}]}
    properties = {
        **_sampling(),
        "prompt": prompt,
        "max_tokens": _whole(0),
        "logprobs": _whole(0, 20),
        "echo": _FLAG,
        "best_of": _whole(1, 64),
    }
    return {"type": "object", "required": ["prompt"], "properties": properties}


_FAULTS: Schema = {"default": _json("Error")}
_SCHEMAS: Schema = {
    "Anything": {"type": "object"},
    "State": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
    "Prompt": {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
    "Tokens": {
        "type": "object",
        "required": ["tokens", "count", "max_model_len"],
        "properties": {"tokens": _IDS, "count": {"type": "integer"}, "max_model_len": {"type": "integer"}},
    },
    "TokenizeRequest": {
        "type": "object",
        "properties": {
            "model": _WORD,
            "prompt": _WORD,
            "messages": {"type": ["array", "null"], "items": _ref("Message")},
            "add_special_tokens": _FLAG,
            "return_token_strs": _FLAG,
        },
    },
    "DetokenizeRequest": {"type": "object", "required": ["tokens"], "properties": {"model": _WORD, "tokens": _IDS}},
    "Message": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"type": ["string", "array", "null"]},
            "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
            "tool_call_id": _WORD,
        },
    },
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {"id": {"type": "string"}, "object": {"const": "model"}, "max_model_len": {"type": "integer"}},
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}},
    },
    "Usage": {
        "type": "object",
        "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
        "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), {"type": "integer"}),
    },
    "ChatAnswer": {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {"choices": {"type": "array", "items": {"type": "object"}}, "usage": _ref("Usage")},
    },
    "CompletionAnswer": {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {"choices": {"type": "array", "items": {"type": "object"}}, "usage": _ref("Usage")},
    },
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": _WORD,
                    "code": _WORD,
                },
            }
        },
    },
}
