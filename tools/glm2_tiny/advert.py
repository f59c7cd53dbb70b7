"""Advertisements in ADGEN form: a list of attributes (content) and a text that mentions every one (summary)."""

from __future__ import annotations

import random
from typing import NamedTuple

from tools.glm2_tiny.grammar import Kind, characters, fill, kinds, table

BRAND = "品牌"
_CONNECTORS = ["", "", "", "", "同时，", "此外，", "另外，", "而且", "并且", "值得一提的是，", "更特别的是，"]


class Pair(NamedTuple):
    """One attribute of a product, written 颜色#红色."""

    attribute: str
    value: str


def write_content(pairs: list[Pair]) -> str:
    """类型#上衣*颜色#红色"""
    return "*".join(f"{attribute}#{value}" for attribute, value in pairs)


def read_content(content: str) -> list[Pair]:
    """The pairs of a content string; the inverse of `write_content`."""
    return [Pair(*item.split("#", 1)) for item in content.split("*")]


def random_content(rng: random.Random, *, least: int = 2, most: int = 7, brands: float = 0.2) -> list[Pair]:
    """A product: its type and `least` to `most` attributes that do not contradict each other."""
    names = list(kinds())
    title = rng.choices(names, [kinds()[name].weight for name in names])[0]
    kind = kinds()[title]
    pairs: list[Pair] = []
    banned: set[str] = set()
    weights = dict(kind.weights)
    for _ in range(rng.randint(least, most)):
        open_ = {name: weight for name, weight in weights.items() if name not in banned}
        if not open_:
            break
        name = rng.choices(list(open_), list(open_.values()))[0]
        value = rng.choice(list(kind.attributes[name].values))
        excluded = table("clothes")["excludes"].get(value, [])
        if any(pair.attribute in excluded for pair in pairs):
            continue
        banned.update(excluded)
        if rng.random() > 0.1 or name in kind.noun_from:  # now and then an attribute has two values, as in ADGEN
            del weights[name]
        if Pair(name, value) not in pairs:
            pairs.append(Pair(name, value))
    return _arrange(rng, title, kind, pairs, brands)


def _arrange(rng: random.Random, title: str, kind: Kind, pairs: list[Pair], brands: float) -> list[Pair]:
    if rng.random() < 0.6:
        order = list(kind.weights)
        pairs.sort(key=lambda pair: order.index(pair.attribute))
    if rng.random() < brands:
        pairs.insert(rng.choice([0, len(pairs)]), Pair(BRAND, random_brand(rng)))
    if title == "好物":
        title = rng.choice(table("goods")["things"]) if rng.random() < 0.75 else random_word(rng, 2, 3)
    return [Pair("类型", title), *pairs]


def random_word(rng: random.Random, least: int, most: int) -> str:
    """Characters drawn at random: names that can only be copied, never remembered."""
    return "".join(rng.choice(characters()) for _ in range(rng.randint(least, most)))


def random_brand(rng: random.Random) -> str:
    """An invented brand."""
    source = table("requests")
    draw = rng.random()
    if draw < 0.5:
        return random_word(rng, 2, 3)
    if draw < 0.8:
        return rng.choice(source["brand_start"]) + rng.choice(characters()[:600]) + rng.choice(source["brand_end"])
    return "".join(rng.choice(source["brand_latin"]) for _ in range(rng.randint(2, 3))).capitalize()


def kind_of(pairs: list[Pair]) -> Kind:
    """The Kind of a product; a type that no table lists is one of the 好物."""
    return kinds().get(pairs[0].value, kinds()["好物"])


def mentions(pairs: list[Pair], summary: str) -> bool:
    """True when the text names every attribute (the type by its own noun or by the noun of an attribute)."""
    return len(named(pairs, summary)) == len(pairs)


def named(pairs: list[Pair], summary: str) -> list[Pair]:
    """The attributes that a text names, the type among them."""
    kind, found = kind_of(pairs), []
    for name, value in pairs[1:]:
        ways = [value] if name == BRAND else [*kind.attributes[name].names(value), value]
        if name in kind.noun_from and value in kind.attributes[name].head_say:
            ways.append(kind.attributes[name].head_say[value])
        if any(way in summary for way in ways):
            found.append(Pair(name, value))
    nouns = [pair.value for pair in pairs if pair.attribute in kind.noun_from]
    nouns += [pairs[0].value] if kind is kinds()["好物"] else kind.nouns
    heads = [kind.attributes[name].head_say.get(value, value) for name, value in pairs[1:] if name in kind.noun_from]
    return [pairs[0], *found] if any(noun in summary for noun in nouns + heads) else found


class _Head(NamedTuple):
    text: str
    measure: str
    said: set[Pair]


def _noun(rng: random.Random, pairs: list[Pair], kind: Kind) -> tuple[str, set[Pair]]:
    if kind is kinds()["好物"]:
        return pairs[0].value, set()
    for name in kind.noun_from:
        for pair in pairs:
            if pair.attribute == name and rng.random() < 0.9:
                return kind.attributes[name].head_say.get(pair.value, pair.value), {pair}
    return rng.choice(kind.nouns), set()


def _head(rng: random.Random, pairs: list[Pair]) -> _Head:
    """The product as a noun phrase, with up to two attributes before the noun."""
    kind = kind_of(pairs)
    noun, said = _noun(rng, pairs, kind)
    front = ""
    able = [pair for pair in pairs[1:] if pair.attribute in kind.attributes and kind.attributes[pair.attribute].head]
    chosen = {pair.attribute: pair for pair in able if rng.random() < 0.4}
    for name in ("风格", "颜色", "材质"):
        if name in chosen and len(said) < 3:
            pair = chosen[name]
            front += fill(kind.attributes[name].head, rng, v=rng.choice(kind.attributes[name].names(pair.value)))
            front += "的" if name == "颜色" and rng.random() < 0.3 else ""
            said.add(pair)
    return _Head(front + noun, rng.choice(kind.measures), said)


def _clause(rng: random.Random, pair: Pair, kind: Kind, used: set[str], frames: list[str] | None = None) -> str:
    """What one attribute does for the buyer; neither frame nor effect is one that the text already has."""
    spec = kind.attributes[pair.attribute]
    own = spec.values[pair.value]
    effect = frame = ""
    for _ in range(8):
        effect = rng.choice(own if own and rng.random() < 0.75 else spec.effects)
        frame = rng.choice(frames or spec.frames)
        if effect not in used and frame not in used:
            break
    used.update({effect, frame})
    return fill(frame, rng, v=rng.choice(spec.names(pair.value)), e=effect).replace("剪裁剪裁", "剪裁")


def random_summary(rng: random.Random, pairs: list[Pair], *, asked: str = "") -> str:
    """An advertisement that mentions every attribute of `pairs`; another call gives another text.

    `asked`: the text whose order the clauses follow, which a small network learns sooner than any order.
    """
    kind, head = kind_of(pairs), _head(rng, pairs)
    brand = next((value for name, value in pairs if name == BRAND), "")
    opening = fill(
        rng.choice(kind.opening_brand if brand else kind.opening), rng, head=head.text, m=head.measure, brand=brand
    )
    rest = [
        pair for pair in pairs[1:] if pair.attribute != BRAND and (pair not in head.said or _again(rng, pair, kind))
    ]
    if asked:
        rest.sort(key=lambda pair: asked.find(pair.value))
    else:
        rng.shuffle(rest)
    used: set[str] = set()
    clauses = [_clause(rng, pair, kind, used) for pair in rest]
    text = opening + ("？" if opening.endswith("吗") else "，" if clauses else "。") + _sentences(rng, clauses)
    if rng.random() < 0.75 or len(clauses) < 2:
        text += fill(rng.choice(kind.closing), rng) + ("！" if rng.random() < 0.15 else "。")
    return text


def _again(rng: random.Random, pair: Pair, kind: Kind) -> bool:
    """Whether an attribute of the opening gets a clause as well; the noun itself never does."""
    return pair.attribute not in kind.noun_from and rng.random() < 0.03


def _sentences(rng: random.Random, clauses: list[str]) -> str:
    """Clauses as sentences of one or two, some begun by a connecting word."""
    text = ""
    while clauses:
        size = rng.choice([1, 1, 2])
        text += (rng.choice(_CONNECTORS) if text else "") + "，".join(clauses[:size]) + "。"
        clauses = clauses[size:]
    return text


def live_summary(rng: random.Random, pairs: list[Pair]) -> str:
    """The same product in the held-back style: a host selling to viewers."""
    style, kind, head = table("live"), kind_of(pairs), _head(rng, pairs)
    brand = next((value for name, value in pairs if name == BRAND), "")
    opening = rng.choice(style["opening_brand"] if brand else style["opening"])
    text = fill(opening, rng, head=head.text, m=head.measure, brand=brand) + "！"
    used: set[str] = set()
    rest = [pair for pair in pairs[1:] if pair.attribute != BRAND and pair not in head.said]
    for pair in rest:
        text += _clause(rng, pair, kind, used, style["clause"]) + "！"
    text += fill(rng.choice(style["reaction"]), rng, m=head.measure) + "！"
    return text + fill(rng.choice(style["closing"]), rng)


def describe(rng: random.Random, pairs: list[Pair]) -> str:
    """The product in a buyer's own words: 红色的真丝连衣裙，复古风格，v领"""
    head = _head(rng, pairs)
    rest = [pair for pair in pairs[1:] if pair not in head.said]
    rng.shuffle(rest)
    said = [
        f"{v}{'风格' if name == '风格' and not v.endswith('风') else '品牌' if name == BRAND else ''}"
        for name, v in rest
    ]
    return rng.choice(["，", "，", "、", " "]).join([head.text, *said])
