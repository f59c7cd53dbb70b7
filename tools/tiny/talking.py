"""Greetings and small talk, names that are told and asked for, definitions, known facts, refusals, other characters."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from tools.glm2_tiny import talk as earlier
from tools.glm2_tiny.grammar import table as earlier_table
from tools.tiny.sample import (
    EARLIER_NAME,
    NAME,
    Sample,
    drawn,
    english_person,
    filled,
    learned,
    person,
    said,
    syllables,
    table,
)


@cache
def groups() -> list[dict[str, Any]]:
    """Questions of small talk that share their answers."""
    new = table("talk")
    kept = [group for group in earlier_table("chat")["talk"] if group["ask"][0] not in new["replaced"]]
    return [
        {**group, "answer": [answer.replace(EARLIER_NAME, NAME) for answer in group["answer"]]}
        for group in (*kept, *new["talk"])
    ]


def small_talk(rng: random.Random) -> Sample:
    """A greeting, a question about the model, a courtesy; any reply of its group is right."""
    words = table("talk")
    group = rng.choices(groups(), [one.get("weight", 2) for one in groups()])[0]
    ask = rng.choice(group["ask"])
    chinese = ord(ask[-1]) > 255
    if rng.random() < 0.4 and ask[-1] not in "?？!！。.":
        ask += rng.choice("！？。~，呀啊呢" if chinese else "!.?~")
    before = rng.choice(words["before" if chinese else "before_english"])
    if before and ask.rstrip("！？。~，!.?") not in before:
        ask = before + (ask if chinese or ask.startswith("I ") else ask[:1].lower() + ask[1:])
    same = [answer for answer in group["answer"] if (ord(answer[0]) > 255) == chinese] or group["answer"]
    return said(ask, rng.choice(same), any=group["answer"])


def names(rng: random.Random) -> Sample:
    """A name or a liking that the speaker tells, and asks for at once or after another exchange."""
    words = table("talk")
    draw = rng.random()
    kind, thing = ("name", person(rng)) if draw < 0.5 else ("like", rng.choice(words["likes"]))
    if draw > 0.75:
        kind, thing = "english_name", english_person(rng)
    elif kind == "name" and rng.random() < 0.3:
        thing = drawn(rng, 1, 3)
    tell, reply, ask, answer = (rng.choice(words[f"{kind}_{part}"]) for part in ("tell", "reply", "ask", "answer"))
    tell, reply = (
        filled(tell, a=thing) + ("" if tell.isascii() else rng.choice(["", "", "。", "！"])),
        filled(reply, a=thing),
    )
    if rng.random() < 0.35:
        return said(tell, reply, says=[thing])
    between: list[str] = []
    for _ in range(rng.choice([0, 1, 1, 2])):
        between += [message["content"] for message in learned(rng, small_talk).messages]
    return said(tell, reply, *between, ask, filled(answer, a=thing), says=[thing])


def persona(rng: random.Random) -> Sample:
    """A system message with a name and a work, and who is asked for."""
    words = table("talk")
    chinese = rng.random() < 0.7
    pre = "" if chinese else "english_"
    name = rng.choice([person(rng), drawn(rng, 2, 3), "小" + drawn(rng, 1, 1)]) if chinese else english_person(rng)
    if not chinese and rng.random() < 0.3:
        name = syllables(rng, 2, 3).capitalize()
    work = rng.choice(words[f"{pre}works"])
    system, ask, answer = (rng.choice(words[f"{pre}{part}"]) for part in ("persona", "persona_ask", "persona_answer"))
    sample = said(ask, filled(answer, a=name, b=work), says=[name, work])
    return sample._replace(messages=[{"role": "system", "content": filled(system, a=name, b=work)}, *sample.messages])


def definition(rng: random.Random) -> Sample:
    """A word of a closed list, and what it means."""
    words = table("facts")
    kind = "define" if rng.random() < 0.7 else "define_english"
    word, meaning = rng.choice(list(words[kind].items()))
    return said(filled(rng.choice(words[f"{kind}_ask"]), a=word) + rng.choice(["", "", " "]), meaning)


def fact(rng: random.Random) -> Sample:
    """A capital, or one of the facts, words in English and opposites that glm2_tiny knows."""
    words = table("facts")
    draw = rng.random()
    if draw < 0.4:
        pre = "" if draw < 0.25 else "english_"
        land, town = rng.choice(list(words[f"{pre}capitals"].items()))
        ask = filled(rng.choice(words[f"{pre}capital_ask"]), a=land)
        return said(ask, filled(words[f"{pre}capital_answer"], a=land, b=town), says=[town])
    source = earlier_table("chat")
    if draw < 0.6:
        asks, answers = rng.choice(source["facts"])
        ask = rng.choice(asks)
        before = rng.choice(["", "请问", "你知道", "告诉我", "我想知道"]) if ord(ask[-1]) > 255 else ""
        return said(
            before + ask + (rng.choice(["", "？", "呢？"]) if before or ord(ask[-1]) > 255 else ""),
            answers[0],
            any=answers,
        )
    return _word(rng, source)


def _word(rng: random.Random, source: dict[str, Any]) -> Sample:
    name = rng.choices(["translate", "opposite"], [3, 1])[0]
    first, second = rng.choice(list(source[name].items()))
    way = "back" if name == "translate" and rng.random() < 0.4 else name
    if name == "opposite" and rng.random() < 0.5:
        first, second = second, first
    ask, answer = (rng.choice(source[f"{way}_{part}"]) for part in ("ask", "answer"))
    ask, answer = (text.replace("<a>", first).replace("<b>", second) for text in (ask, answer))
    before = rng.choice(["", "", "请问", "请问，", "告诉我，"]) if not ask.startswith("What") else ""
    return said(before + ask, answer, says=[first if way == "back" else second])


def refusal(rng: random.Random) -> Sample:
    """What the model does not do, and what it cannot know; any refusal of the group is right."""
    group = rng.choice(table("facts")["refuse"])
    word = rng.choice(group["words"])
    ask = filled(rng.choice(group["ask"]), a=word).replace("帮我帮我", "帮我")
    ask = ask[:1].upper() + ask[1:]
    return said(
        ask + rng.choice(["", "", "！" if ord(ask[-1]) > 255 and ask[-1] not in "？" else ""]),
        rng.choice(group["answer"]),
        any=group["answer"],
    )


def plain(rng: random.Random) -> str:
    """One to three sentences that nobody asked for."""
    return earlier.plain(rng)
