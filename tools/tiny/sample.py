"""What the corpus is made of: conversations of one skill, what their last reply must say, and which are held back."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tools.glm2_tiny.grammar import characters

FOLDER = Path(__file__).parent / "words"
NAME, EARLIER_NAME = "GLM3-Tiny", "GLM2-Tiny"
_HELD_ONE_IN = 16


class Sample(NamedTuple):
    """A conversation that ends with the assistant.

    `wanted` says how the last reply is judged (measure.py): `any` accepted replies, `number` the last number of it,
    `says` words that it must have, `json` the object that it is, `call` the name and arguments of the tool it calls.
    """

    messages: list[dict[str, Any]]
    wanted: dict[str, Any]
    tools: list[dict[str, Any]] | None = None

    @property
    def prompt(self) -> str:
        """What stands before the first reply, as one text."""
        first = next(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return json.dumps([self.messages[:first], self.tools], ensure_ascii=False)

    @property
    def is_held_back(self) -> bool:
        """One prompt in sixteen is never learned, whichever skill it is of: its text decides."""
        text = self.prompt
        return int(hashlib.sha256(text.encode()).hexdigest(), 16) % _HELD_ONE_IN == 0


Maker = Callable[[random.Random], Sample]


@cache
def table(name: str) -> dict[str, Any]:
    """The content of words/<name>.yaml."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def learned(rng: random.Random, maker: Maker) -> Sample:
    """A sample that is not held back."""
    while (sample := maker(rng)).is_held_back:
        pass
    return sample


def said(*turns: str, **wanted: Any) -> Sample:
    """A conversation of questions and replies in turn, the last reply judged by `wanted` or by its own text."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return Sample(messages, wanted or {"any": [turns[-1]]})


def filled(template: str, **words: Any) -> str:
    """`template` with every <word> replaced."""
    for name, word in words.items():
        template = template.replace(f"<{name}>", str(word))
    return template


def drawn(rng: random.Random, least: int, most: int) -> str:
    """Characters drawn at random: names that can only be copied."""
    return "".join(rng.choice(characters()) for _ in range(rng.randint(least, most)))


def person(rng: random.Random) -> str:
    """A Chinese name: some are common, most are drawn anew."""
    words = table("words")
    if rng.random() < 0.3:
        return rng.choice(words["people"])
    return rng.choice(words["surnames"]) + drawn(rng, 1, 2)


def english_person(rng: random.Random) -> str:
    """An English first name; half are made of syllables."""
    words = table("words")
    if rng.random() < 0.5:
        return rng.choice(words["english_people"])
    return syllables(rng, 2, 3).capitalize()


def syllables(rng: random.Random, least: int, most: int) -> str:
    """A made-up word in Latin letters."""
    return "".join(
        rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(["", "", "n", "r", "l", "s"])
        for _ in range(rng.randint(least, most))
    )


def city(rng: random.Random) -> str:
    """A Chinese place: a known one or one drawn anew."""
    words = table("words")
    return rng.choice(words["cities"]) if rng.random() < 0.6 else drawn(rng, 1, 2) + rng.choice(words["city_ends"])


def digits(rng: random.Random, count: int) -> str:
    """A number of so many digits, as text."""
    return str(rng.randint(1, 9)) + "".join(str(rng.randint(0, 9)) for _ in range(count - 1))
