"""What is in the prompt said in another form: words again, attributes, fields as JSON, a text in one sentence."""

from __future__ import annotations

import json
import random
from typing import Any

from tools.glm2_tiny import talk as earlier
from tools.glm2_tiny.advert import random_content, write_content
from tools.tiny.drawings import VALUES
from tools.tiny.numbers import ENGLISH_WEEK
from tools.tiny.sample import (
    EARLIER_NAME,
    NAME,
    Sample,
    digits,
    drawn,
    english_person,
    filled,
    person,
    said,
    syllables,
    table,
)


def repeat(rng: random.Random) -> Sample:
    """Words to say again."""
    if rng.random() < 0.5:
        ask, answer = (text.replace(EARLIER_NAME, NAME) for text in earlier.repeat(rng))
        return said(ask, answer)
    text = rng.choice(
        [
            drawn(rng, 2, 12),
            digits(rng, rng.randint(3, 12)),
            " ".join(syllables(rng, 1, 3) for _ in range(rng.randint(1, 5))),
        ]
    )
    ask = rng.choice(
        [
            "重复一遍：<a>",
            "请跟我说：<a>",
            "请重复：<a>",
            "跟我念：<a>",
            "Say: <a>",
            "Please repeat: <a>",
            "照着写：<a>",
            "Repeat after me: <a>",
            "把“<a>”再说一遍",
        ]
    )
    return said(filled(ask, a=text), text)


def reading(rng: random.Random) -> Sample:
    """A question about an attribute list."""
    turn = earlier.reading(rng)
    return said(turn.ask, turn.answer)


def extraction(rng: random.Random) -> Sample:
    """Fields of a text as JSON; one that the text does not tell is null."""
    words = table("records")
    chinese = rng.random() < 0.7
    pre = "" if chinese else "english_"
    record = rng.choice(list(words[f"{pre}records"].values()))
    told = rng.sample(list(record), rng.randint(2, min(4, len(record))))
    values: dict[str, Any] = {name: VALUES[record[name][0]](rng) for name in told}
    parts = [filled(rng.choice(record[name][1]), v=values[name]) for name in told]
    if chinese:
        text = "，".join(parts) + "。"
    else:
        text = ", ".join(parts) + "."
        text = text[:1].upper() + text[1:]
    wanted = rng.sample(told, rng.randint(max(1, len(told) - 1), len(told)))
    missing = [name for name in record if name not in told]
    if missing and rng.random() < 0.15:
        wanted.insert(rng.randint(0, len(wanted)), rng.choice(missing))
    asked = ("、" if chinese else ", ").join(wanted)
    ask = filled(rng.choice(words[f"{pre}extract_ask"]), f=asked, t=text)
    found = {name: values.get(name) for name in wanted}
    return said(ask, json.dumps(found, ensure_ascii=False), json=found)


def summary(rng: random.Random) -> Sample:
    """A text of some sentences, in one."""
    words = table("records")
    kind = rng.choices(["outing", "review", "notice", "english_outing"], [3, 2, 2, 2])[0]
    source = words[kind]
    if kind == "outing":
        time = rng.choice(table("words")["days"])
        given = {"w": person(rng), "x": rng.choice(source["companions"]), "p": rng.choice(source["places"]),
                 "d": rng.choice(source["acts"]), "t": time}  # fmt: skip
        text = time + "，" + "".join(rng.choice(source[part]) for part in ("early", "go", "did", "rest", "rest"))
    elif kind == "review":
        good = VALUES["good"](rng)
        given = {"g": good, "a": rng.choice(source["goods"]), "b": rng.choice(source["bads"])}
        begin = rng.choice(source["begin"]) or f"说说这个{good}。"
        text = begin + "".join(rng.choice(source[part]) for part in ("rest", "good", "bad", "rest"))
    elif kind == "notice":
        given = {"t": VALUES["hour"](rng), "p": VALUES["room"](rng), "o": rng.choice(words["topics"])}
        text = "".join(rng.choice(source[part]) for part in ("begin", "body", "topic", "rest"))
    else:
        given = {"w": english_person(rng), "x": english_person(rng), "p": rng.choice(source["places"]),
                 "d": rng.choice(source["acts"]), "t": rng.choice(ENGLISH_WEEK)}  # fmt: skip
        text = " ".join(filter(None, (rng.choice(source[part]) for part in ("begin", "go", "did", "rest"))))
    ask = rng.choice(words["english_sum_ask" if kind == "english_outing" else "sum_ask"])
    answer = filled(source["sum"], **given)
    keys = [str(value) for value in given.values()]
    return said(filled(ask.replace("<t>", "<text>"), text=filled(text, **given)), answer, any=[answer], says=keys)


def listing(rng: random.Random) -> Sample:
    """An attribute list as JSON."""
    pairs = random_content(rng, most=5, brands=0.4)
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    content = write_content([pair for pair in pairs if found[pair.attribute] == pair.value])
    ask = rng.choice(["把它写成 JSON：<a>", "<a> 用 JSON 表示", "将下面的属性转成 JSON：<a>", "Write as JSON: <a>"])
    return said(filled(ask, a=content), json.dumps(found, ensure_ascii=False), json=found)
