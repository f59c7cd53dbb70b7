"""Tools in ChatGLM3's format: descriptions, calls, results, replies; questions that need none or lack something."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from tools.tiny.drawings import VALUES
from tools.tiny.numbers import arithmetic
from tools.tiny.sample import Sample, drawn, filled, learned, syllables, table
from tools.tiny.talking import definition, small_talk

_LETTERS = "abc"
_NOT_TOOLS = ("none", "phrases", "languages", "currencies", "house", "courses", "subjects")


class Tool(NamedTuple):
    """One tool as a conversation is told of it, and the sentences that belong to it."""

    description: dict[str, Any]
    parameters: list[str]
    source: dict[str, Any]
    topic: str  # what a made-up tool looks up


class Use(NamedTuple):
    """A question, the call that answers it, what the tool says, and the reply; `keys` are in every good reply."""

    ask: str
    name: str
    arguments: dict[str, Any]
    result: str
    reply: str
    keys: list[str]


def _kinds() -> list[str]:
    return [name for name in table("tools") if name not in _NOT_TOOLS]


def a_tool(rng: random.Random, kind: str) -> Tool:
    """A tool with a name, a description and names of parameters of its own."""
    source = table("tools")[kind]
    if kind == "made":
        name = f"{rng.choice(source['verbs'])}_{syllables(rng, 1, 3)}"
        topic = drawn(rng, 2, 3) if rng.random() < 0.7 else rng.choice(table("tools")["subjects"])
        rows = [
            [
                [rng.choice(source["parameters"])],
                rng.choice(["person", "product", "number", "made", "city"]),
                ["名称", "要查的对象"],
            ]
        ]
    else:
        name, topic, rows = rng.choice(source["names"]), "", source["parameters"]
        if rng.random() < 0.15:
            name = f"{name}_{syllables(rng, 1, 1)}"
    about = filled(rng.choice(source["about"]), k=topic)
    long, names, properties = rng.random() < 0.4, [], {}
    for possible, value, texts in rows:
        names.append(rng.choice(possible))
        whole = value.startswith("to")
        properties[names[-1]] = {"type": "integer" if whole else "string"}
        if long:
            properties[names[-1]] = {
                "description": rng.choice(texts),
                **(properties[names[-1]] if rng.random() < 0.5 else {}),
            }
    parameters = {"type": "object", "properties": properties}
    if rng.random() < 0.3:
        parameters["required"] = names[:1]
    kinds = [row[1] for row in rows]
    return Tool(
        {"name": name, "description": about, "parameters": parameters}, names, {**source, "kinds": kinds}, topic
    )


def a_use(rng: random.Random, tool: Tool) -> Use:
    """A question that the tool answers."""
    source, given = tool.source, {"k": tool.topic}
    values = {letter: VALUES[kind](rng) for letter, kind in zip(_LETTERS, source["kinds"], strict=False)}
    ask = rng.choice(source["ask"])
    used = [letter for letter in values if f"<{letter}>" in ask]
    arguments = {
        name: values[letter] for name, letter in zip(tool.parameters, _LETTERS, strict=False) if letter in used
    }
    draw = source.get("draw", {"x": rng.choice(["to9999", "made", "person"])})
    found = {letter: rng.choice(kind) if isinstance(kind, list) else VALUES[kind](rng) for letter, kind in draw.items()}
    given |= values | found
    able = [
        reply for reply in source["reply"] if all(f"<{letter}>" not in reply or letter in used for letter in values)
    ]
    reply = rng.choice(able or source["reply"])
    result = filled(rng.choice(source["result"]), **given)
    keys = [str(given[letter]) for letter in "xyabc" if f"<{letter}>" in reply and letter in given]
    return Use(filled(ask, **given), tool.description["name"], arguments, result, filled(reply, **given), keys)


def tools(rng: random.Random) -> list[Tool]:
    """One to three tools of different kinds; made-up ones may come twice."""
    count = rng.choices([1, 2, 3], [6, 3, 1])[0]
    kinds = rng.sample(_kinds(), count)
    return [a_tool(rng, "made" if rng.random() < 0.3 else kind) for kind in kinds]


def _used(use: Use) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": use.name, "arguments": use.arguments}}
    return [{"role": "user", "content": use.ask}, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": use.result}, {"role": "assistant", "content": use.reply}]  # fmt: skip


def _described(offered: list[Tool]) -> list[dict[str, Any]]:
    return [tool.description for tool in offered]


def call(rng: random.Random) -> Sample:
    """A question up to the call that it needs."""
    offered = tools(rng)
    use = a_use(rng, rng.choice(offered))
    return Sample(_used(use)[:2], {"call": {"name": use.name, "arguments": use.arguments}}, _described(offered))


def conversation(rng: random.Random) -> Sample:
    """One to four questions with what they need, the last one a call with its result and reply."""
    offered = tools(rng)
    messages: list[dict[str, Any]] = []
    for _ in range(rng.choices([0, 1, 2, 3], [3, 3, 2, 1])[0]):
        more = _used(a_use(rng, rng.choice(offered))) if rng.random() < 0.75 else _unused(rng, offered)[0]
        messages += more
    use = a_use(rng, rng.choice(offered))
    return Sample(messages + _used(use), {"any": [use.reply], "says": use.keys}, _described(offered))


def without(rng: random.Random) -> Sample:
    """Tools are there, and the question needs none, needs another one, or lacks what the tool must know."""
    offered = tools(rng)
    messages, wanted = _unused(rng, offered)
    return Sample(messages, wanted, _described(offered))


def _unused(rng: random.Random, offered: list[Tool]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    draw = rng.random()
    if draw < 0.4:
        sample = learned(rng, rng.choice([small_talk, arithmetic, definition]))
        return sample.messages, sample.wanted
    known = [tool for tool in offered if "missing" in tool.source]
    if draw < 0.7 and known:
        source = rng.choice(known).source
        ask, answers = rng.choice(source["missing"]), [source["back"]]
    else:
        kinds = {json.dumps(tool.source["about"]) for tool in offered}
        others = [
            kind for kind in _kinds() if kind != "made" and json.dumps(table("tools")[kind]["about"]) not in kinds
        ]
        ask, answers = a_use(rng, a_tool(rng, rng.choice(others))).ask, table("tools")["none"]
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": rng.choice(answers)}], {"any": answers}
