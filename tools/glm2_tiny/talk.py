"""Conversations: greetings, simple facts, requests in free words, English advertisements; and plain sentences."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from tools.glm2_tiny.advert import describe, random_brand, random_content, random_summary, random_word, write_content
from tools.glm2_tiny.grammar import table


class Turn(NamedTuple):
    """A question and its answer."""

    ask: str
    answer: str


def advert(rng: random.Random) -> Turn:
    """An attribute list and its advertisement, as in ADGEN."""
    pairs = random_content(rng)
    return Turn(write_content(pairs), random_summary(rng, pairs))


def request(rng: random.Random) -> Turn:
    """A request in the user's own words and its advertisement."""
    pairs = random_content(rng, least=1, most=5, brands=0.1)
    ask = rng.choice(table("requests")["ask"]).replace("<d>", describe(rng, pairs))
    return Turn(ask + rng.choice(["", "", "。"]), random_summary(rng, pairs))


def small_talk(rng: random.Random) -> Turn:
    """A greeting, a question about the model, a courtesy."""
    groups = table("chat")["talk"]
    group = rng.choices(groups, [group.get("weight", 2) for group in groups])[0]
    ask = rng.choice(group["ask"])
    if rng.random() < 0.35 and ask[-1] not in "?？!！。":
        ask += rng.choice("！？。~" if ord(ask[-1]) > 255 else "!.?")
    return Turn(ask, rng.choice(group["answer"]))


def fact(rng: random.Random) -> Turn:
    """A question with one right answer: general knowledge, a sum, a word in English, an opposite."""
    source = table("chat")
    draw = rng.random()
    if draw < 0.35:
        asks, answers = rng.choice(source["facts"])
        ask = rng.choice(asks)
        return Turn(ask + rng.choice(["", "？"]) if ord(ask[-1]) > 255 else ask, rng.choice(answers))
    if draw < 0.55:
        return _sum(rng)
    name = rng.choices(["translate", "opposite"], [3, 1])[0]
    first, second = rng.choice(list(source[name].items()))
    way = "back" if name == "translate" and rng.random() < 0.4 else name
    if name == "opposite" and rng.random() < 0.5:
        first, second = second, first
    ask, answer = (rng.choice(source[f"{way}_{part}"]) for part in ("ask", "answer"))
    return Turn(*(text.replace("<a>", first).replace("<b>", second) for text in (ask, answer)))


def _sum(rng: random.Random) -> Turn:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.3:
        a, b = max(a, b), min(a, b)
        sign, word, result = "-", "减", a - b
    else:
        sign, word, result = "+", "加", a + b
    ask = rng.choice([f"{a}{sign}{b}=", f"{a}{word}{b}等于几", f"{a} {sign} {b} 等于多少", f"{a}{sign}{b}等于几？"])
    return Turn(ask, f"{a}{sign}{b}={result}。")


def english(rng: random.Random) -> Turn:
    """An advertisement in English, asked for with attributes or in words."""
    source = table("english")
    title = rng.choice(list(source["types"]))
    noun, plural = rng.choice(source["types"][title]), title in source["plural"]
    names = rng.sample(list(source["attributes"]), rng.randint(1, 4))
    chosen = [(name, rng.choice(source["attributes"][name]["values"])) for name in names]
    text = [rng.choice(source["opening_plural" if plural else "opening"]).replace("<head>", noun)]
    for name, value in chosen if rng.random() < 0.8 else rng.sample(chosen, len(chosen)):
        spec = source["attributes"][name]
        sentence = rng.choice(spec["frame"]).replace("<v>", value).replace("<e>", rng.choice(spec["effect"]))
        text.append(re.sub(r"\bA (?=[aeiou])", "An ", sentence))
    closings = source["closing"] if title in source["wear"] else source["closing"][1:]
    text.append(rng.choice(closings))
    if rng.random() < 0.5:
        ask = "*".join(f"{name}#{value}" for name, value in [("type", noun), *chosen])
    else:
        words = rng.choice([", ", " "]).join(value for _, value in chosen)
        ask = rng.choice(source["ask"]).replace("<words>", words).replace("<head>", noun)
        ask = re.sub(r"\ba (?=[aeiou])", "an ", ask)
    return Turn(ask, " ".join(text))


def repeat(rng: random.Random) -> Turn:
    """Words to say again: the network learns to copy what it has never seen."""
    source = table("chat")
    words = [random_word(rng, 2, 6), random_brand(rng), small_talk(rng).answer, rng.choice(table("goods")["things"])]
    text = rng.choice(words)
    return Turn(rng.choice(source["repeat_ask"]).replace("<a>", text), text)


def reading(rng: random.Random) -> Turn:
    """A question about an attribute list: one value, or all of them in their order."""
    source, pairs = table("chat"), random_content(rng, most=5, brands=0.4)
    content = write_content(pairs)
    if rng.random() < 0.5:
        ask, answer = rng.choice(source["list_ask"]), "、".join(value for _, value in pairs) + "。"
        return Turn(ask.replace("<a>", content), answer)
    name = rng.choice(pairs).attribute
    values = "、".join(pair.value for pair in pairs if pair.attribute == name)
    ask, answer = rng.choice(source["value_ask"]), rng.choice(source["value_answer"])
    return Turn(ask.replace("<a>", content).replace("<b>", name), answer.replace("<b>", name).replace("<c>", values))


def plain(rng: random.Random) -> str:
    """One to three sentences of general Chinese or English."""
    source = table("chat")
    words = {**table("words"), **source["slots"]}
    english_text = rng.random() < 0.35

    def sentence() -> str:
        able = [text for text in source["plain"] if text.isascii() == english_text]
        text = re.sub(r"<(\w+)>", lambda slot: rng.choice(words[slot.group(1)]), rng.choice(able))
        return text[:1].upper() + text[1:]

    return (" " if english_text else "").join(sentence() for _ in range(rng.randint(1, 3)))


_KINDS = {
    "advert": 48, "request": 14, "talk": 9, "fact": 6, "english": 6, "plain": 3, "dialogue": 4, "repeat": 4,
    "reading": 6,
}  # fmt: skip
_TURNS = {
    "advert": advert, "request": request, "talk": small_talk, "fact": fact, "english": english, "repeat": repeat,
    "reading": reading,
}  # fmt: skip


def sample(rng: random.Random) -> dict:
    """One line of the corpus: {"kind", "turns": [[ask, answer], ...]} or {"kind": "plain", "text"}."""
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    if kind == "plain":
        return {"kind": kind, "text": plain(rng)}
    if kind == "dialogue":
        makers = [small_talk, small_talk, fact, request, advert]
        return {"kind": kind, "turns": [rng.choice(makers)(rng) for _ in range(rng.randint(2, 4))]}
    return {"kind": kind, "turns": [_TURNS[kind](rng)]}
