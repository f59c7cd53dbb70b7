"""What a field of a record or a parameter of a tool may be: from a list, or drawn anew so that it must be copied."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tools.tiny.sample import city, digits, drawn, english_person, person, syllables, table

Drawing = Callable[[random.Random], Any]


def _listed(file: str, name: str) -> Drawing:
    return lambda rng: rng.choice(table(file)[name])


def _whole(least: int, most: int) -> Drawing:
    return lambda rng: rng.randint(least, most)


def _or_made(share: float, listed: Drawing, made: Drawing) -> Drawing:
    return lambda rng: (listed if rng.random() < share else made)(rng)


def characters_of(least: int, most: int) -> Drawing:
    """Drawn characters."""
    return lambda rng: drawn(rng, least, most)


def _latin(rng: random.Random) -> str:
    return " ".join(syllables(rng, 1, 3) for _ in range(rng.randint(1, 3)))


def _product(rng: random.Random) -> str:
    noun, draw = VALUES["good"](rng), rng.random()
    if draw < 0.5:
        return noun
    return (VALUES["colour"](rng) if draw < 0.8 else drawn(rng, 2, 3)) + noun


VALUES: dict[str, Drawing] = {
    "person": person,
    "anyone": _or_made(0.9, person, english_person),
    "english_person": english_person,
    "city": city,
    "english_city": _or_made(0.6, _listed("words", "english_cities"), lambda rng: syllables(rng, 2, 3).capitalize()),
    "good": _or_made(0.6, _listed("words", "goods"), characters_of(2, 4)),
    "english_good": _or_made(0.7, _listed("words", "english_goods"), lambda rng: syllables(rng, 2, 3)),
    "product": _product,
    "colour": _listed("words", "colours"),
    "english_colour": _listed("words", "english_colours"),
    "day": _listed("words", "days"),
    "english_day": _listed("words", "english_days"),
    "hour": lambda rng: rng.choice(table("words")["days"]) + rng.choice(table("records")["hours"]),
    "english_time": lambda rng: f"{rng.randint(1, 12)}:{rng.choice(['00', '15', '30', '45'])}",
    "phone": lambda rng: "1" + digits(rng, 10),
    "trip": lambda rng: rng.choice("GDKTZ") + digits(rng, rng.randint(2, 4)),
    "title": characters_of(2, 5),
    "room": _or_made(0.5, _listed("records", "rooms"), lambda rng: f"{rng.randint(101, 999)}室"),
    "topic": _listed("records", "topics"),
    "like": _listed("talk", "likes"),
    "house": _listed("tools", "house"),
    "language": _listed("tools", "languages"),
    "currency": _listed("tools", "currencies"),
    "course": _listed("tools", "courses"),
    "onoff": lambda rng: rng.choice(["打开", "关闭", "关上"]),
    "phrase": _or_made(0.7, _listed("tools", "phrases"), characters_of(2, 6)),
    "subject": _or_made(0.5, _listed("tools", "subjects"), characters_of(2, 5)),
    "expression": lambda rng: rng.choice("+-*/").join(
        digits(rng, rng.randint(1, 4)) for _ in range(rng.choice([2, 2, 3]))
    ),
    "code": _or_made(0.6, lambda rng: digits(rng, 6), lambda rng: syllables(rng, 1, 2).upper()),
    "number": lambda rng: digits(rng, rng.randint(5, 10)),
    "price": lambda rng: rng.choice([rng.randint(1, 99), rng.randint(100, 999), rng.randint(1000, 9999)]),
    "age": _whole(6, 90),
    "to20": _whole(1, 20),
    "to35": _whole(1, 35),
    "to99": _whole(1, 99),
    "to999": _whole(1, 999),
    "to9999": _whole(1, 9999),
    "hundreds": _whole(100, 999),
    "thousands": _whole(10000, 99999),
    "made": _or_made(0.5, characters_of(2, 6), _latin),
}
