"""From a product as a person describes it, in Chinese or English, to the attributes of an ADGEN line."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from tools.glm2_tiny.advert import BRAND, Pair, write_content
from tools.glm2_tiny.grammar import kinds, table

_WORDS = Path(__file__).parent / "words.yaml"


@cache
def word_tables() -> dict[str, dict[str, str]]:
    """The tables of words.yaml: `english` and `everyday`, word -> word of the product tables."""
    return yaml.safe_load(_WORDS.read_text(encoding="utf-8"))


class Product(NamedTuple):
    """What a description was read as."""

    content: str  # the question for the model
    understood: bool  # True when it is a list of attributes, False when it is the user's own words


def read_product(text: str) -> Product:
    """The attributes that a description names; a text with `#` is taken as it is.

    What names no known product becomes the request 写广告：<text>.
    """
    text = text.strip()
    if "#" in text:
        return Product(text, True)
    words = " ".join(word_tables()["english"].get(word, "") for word in re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower()))
    text_or_words = f"{_plain(text)} {words}"
    found = _product_type(text_or_words)
    if found is None:
        return Product(f"写广告：{text}", False)
    title, kind_name = found
    return Product(write_content([Pair("类型", title), *_attributes(text_or_words, kind_name)]), True)


def _plain(text: str) -> str:
    """The text with everyday words replaced by those of the tables."""
    for word, name in word_tables()["everyday"].items():
        if name not in text:
            text = text.replace(word, name)
    return text


def _product_type(text: str) -> tuple[str, str] | None:
    """(type as written, Kind) of the longest product noun in the text; of two equal ones the later."""
    nouns: dict[str, tuple[str, str]] = {thing: (thing, "好物") for thing in table("goods")["things"]}
    for title, kind in kinds().items():
        names = [title, *kind.nouns]
        names += [value for attribute in kind.noun_from for value in kind.attributes[attribute].values]
        if title != "好物":
            nouns.update({noun: (title, title) for noun in names})
    met = [noun for noun in nouns if noun in text.lower()]
    return nouns[max(met, key=lambda noun: (len(noun), text.lower().rfind(noun)))] if met else None


def _attributes(text: str, kind_name: str) -> list[Pair]:
    """Every attribute value of the kind that the text names, in the order of the table; longer names win."""
    kind = kinds()[kind_name]
    names: list[tuple[str, Pair]] = []
    for attribute, spec in kind.attributes.items():
        for value in spec.values:
            ways = {value, *spec.names(value)}
            if attribute == "颜色" and value.endswith("色"):
                ways.add(value[:-1])
            names += [(way.lower(), Pair(attribute, value)) for way in ways if len(way) > 1 or not way.isascii()]
    rest, met = text.lower(), set()
    for way, pair in sorted(names, key=lambda row: -len(row[0])):
        if way in rest:
            met.add(pair)
            rest = rest.replace(way, "\n")
    order = list(kind.attributes)
    pairs = sorted(met, key=lambda pair: (order.index(pair.attribute), pair.value))
    brand = re.search(r"品牌[是为：: ]*([\w]+)", text)
    return [*pairs, Pair(BRAND, brand.group(1))] if brand else pairs
