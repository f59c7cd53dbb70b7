"""A thousand demanded calls and schemas with random weights: each answer is of the form, whatever the network says."""

from __future__ import annotations

import concurrent.futures
import json
import re

import httpx
import pytest
from random_yaml import random_glm3
from server_process import ServerProcess

pytest.importorskip("llguidance")
pytestmark = pytest.mark.slow
REQUESTS = 1000
TEXT = {"type": "string", "maxLength": 12}
CODE = {"type": "string", "pattern": "^[A-Z]{3}$"}
CLOSED = {"type": "object", "additionalProperties": False}  # open ones may go on for ever
SCHEMAS = [
    {
        "type": "object",
        "properties": {"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "number", "minimum": -5, "maximum": 5}, "minItems": 1, "maxItems": 4},
    {"enum": ["晴", "雨", "a \"quoted\" word", "new\nline", 7, None, True]},
    {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99}, {"const": "无"}]},
    {
        "type": "object",
        "properties": {
            "place": {"type": "object", "properties": {"city": TEXT, "code": CODE}, "additionalProperties": False},
            "days": {"type": "array", "items": {"enum": ["一", "二", "三"]}, "maxItems": 3},
            "sure": {"type": "boolean"},
        },
        "required": ["place", "days"],
        "additionalProperties": False,
    },
]  # fmt: skip
TOOLS = [
    {"name": "weather", "parameters": {**SCHEMAS[0], "required": ["name"]}},
    {"name": "查询", "parameters": SCHEMAS[4]},
    {"name": "odd.keys-1", "parameters": {**CLOSED, "properties": {"a b": TEXT, "class": {"const": 1}}}},
    {"name": "nothing", "parameters": {**CLOSED, "properties": {}}},
]
KINDS = {"string": str, "integer": int, "number": (int, float), "array": list, "object": dict, "boolean": bool}


def fits(value, schema) -> bool:
    """Whether a value is of a schema, as far as the schemas above go."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return any(value == one and type(value) is type(one) for one in schema.get("enum", [schema.get("const")]))
    kind = schema["type"]
    if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind == "string":
        return len(value) <= schema.get("maxLength", 99) and re.search(schema.get("pattern", ""), value) is not None
    if kind in ("integer", "number"):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if kind == "array":
        bounds = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 99)
        return bounds and all(fits(item, schema["items"]) for item in value)
    if kind == "object":
        known = schema["properties"]
        whole = set(schema.get("required", [])) <= set(value)
        closed = schema.get("additionalProperties", True) or set(value) <= set(known)
        return whole and closed and all(fits(item, known[key]) for key, item in value.items() if key in known)
    return True


def test_a_thousand_answers_of_random_weights_are_all_of_the_form(tmp_path):
    server = ServerProcess(
        "-m",
        "mindformers_glm",
        "serve",
        "--model",
        str(random_glm3(tmp_path)),
        *("--port", "0", "--seq_length", "4096"),
    )
    tools = [{"type": "function", "function": {"description": "", **tool}} for tool in TOOLS]
    offered = {tool["name"]: tool["parameters"] for tool in TOOLS}

    def ask(number):
        body = {"messages": [{"role": "user", "content": f"第 {number} 个"}], "max_tokens": 300}
        body |= {"temperature": [0, 0.7, 1, 2][number % 4], "seed": number}
        if number % 2:
            choice = "required" if number % 3 else {"type": "function", "function": {"name": "查询"}}
            body |= {"tools": tools, "tool_choice": choice}
        else:
            schema = SCHEMAS[number // 2 % len(SCHEMAS)]
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
            body["response_format"] = form
        reply = http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, (number, reply.text)
        [choice] = reply.json()["choices"]
        if choice["finish_reason"] == "length":  # the network had not ended it; what there is begins right
            return "length"
        if number % 2:
            assert choice["finish_reason"] == "tool_calls", choice
            [call] = choice["message"]["tool_calls"]
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            assert number % 3 or name == "查询"
            assert fits(arguments, offered[name]), call
        else:
            assert fits(json.loads(choice["message"]["content"]), schema), choice
        return "whole"

    try:
        with (
            httpx.Client(base_url=server.address, timeout=600) as http,
            concurrent.futures.ThreadPoolExecutor(16) as pool,
        ):
            ends = list(pool.map(ask, range(REQUESTS)))
    finally:
        assert server.stop() == 0
    print({end: ends.count(end) for end in set(ends)})
    assert ends.count("whole") >= 0.99 * REQUESTS
