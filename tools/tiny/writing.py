"""Advertisements: from attribute lists, from requests in free words, in English; every attribute is honoured."""

from __future__ import annotations

import random

from tools.glm2_tiny import talk as earlier
from tools.glm2_tiny.advert import describe, random_content, random_summary, write_content
from tools.glm2_tiny.grammar import table
from tools.tiny.sample import Sample, said


def advert(rng: random.Random) -> Sample:
    """An attribute list and an advertisement that goes through it in its order."""
    pairs = random_content(rng)
    content = write_content(pairs)
    return said(content, random_summary(rng, pairs, asked=content), pairs=[list(pair) for pair in pairs])


def request(rng: random.Random) -> Sample:
    """A request in the user's own words and an advertisement that goes through it in its order."""
    pairs = random_content(rng, least=1, most=5, brands=0.1)
    said_so = describe(rng, pairs)
    ask = rng.choice(table("requests")["ask"]).replace("<d>", said_so) + rng.choice(["", "", "。"])
    return said(ask, random_summary(rng, pairs, asked=said_so), pairs=[list(pair) for pair in pairs])


def english(rng: random.Random) -> Sample:
    """An advertisement in English; the values of its attributes must be there."""
    turn = earlier.english(rng)
    values = {value for spec in table("english")["attributes"].values() for value in spec["values"]}
    asked = turn.ask.replace("#", " ").replace("*", " ").replace(",", " ").replace(".", " ").split()
    return said(turn.ask, turn.answer, says=[word for word in asked if word in values])
