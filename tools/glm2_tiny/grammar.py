"""The word and clause tables of grammar/*.yaml, and the filling of their <slots>."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "grammar"
_SLOT = re.compile(r"<(\w+)>")


@cache
def table(name: str) -> dict[str, Any]:
    """The content of grammar/<name>.yaml."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def characters() -> str:
    """Common Chinese characters, the most frequent first."""
    return "".join((FOLDER / "characters.txt").read_text(encoding="utf-8").split())


def fill(template: str, rng: random.Random, **given: str) -> str:
    """`template` with every <slot> replaced: by a given text, else by a random word of words.yaml, each once."""
    words, used = table("words"), set()

    def choose(match: re.Match) -> str:
        name = match.group(1)
        if name in given:
            return fill(given[name], rng, **given)
        word = rng.choice([word for word in words[name] if word not in used])
        used.add(word)
        return fill(word, rng, **given)

    return _SLOT.sub(choose, template)


@dataclass(frozen=True)
class Attribute:
    """What an attribute's values are called and what can be said of them."""

    frames: list[str]
    effects: list[str]
    values: dict[str, list[str]]
    say: dict[str, list[str]] = field(default_factory=dict)
    head: str = ""
    head_say: dict[str, str] = field(default_factory=dict)

    def names(self, value: str) -> list[str]:
        """The ways a text may write a value."""
        return self.say.get(value, [value])


@dataclass(frozen=True)
class Kind:
    """A type of product: its attributes with their weights, its nouns, and the sentences that frame a text."""

    nouns: list[str]
    noun_from: list[str]
    measures: list[str]
    weights: dict[str, int]
    attributes: dict[str, Attribute]
    opening: list[str]
    opening_brand: list[str]
    closing: list[str]
    weight: int


@cache
def kinds() -> dict[str, Kind]:
    """Type -> Kind, for clothing and for other goods."""
    found = {}
    for name in ("clothes", "goods"):
        source = table(name)
        known = {key: _attribute(source, key) for key in source["attributes"]}
        for alias, original in source.get("same", {}).items():
            known[alias] = known[original]
        for title, spec in source["types"].items():
            only = source.get("only", {}).get(title, {})
            found[title] = Kind(
                nouns=spec["noun"],
                noun_from=spec.get("noun_from", []),
                measures=spec["measure"],
                weights=spec["attributes"],
                attributes={key: _narrowed(known[key], only.get(key)) for key in spec["attributes"]},
                opening=source["opening"],
                opening_brand=source["opening_brand"],
                closing=source["closing"],
                weight=spec["weight"],
            )
    return found


def _attribute(source: dict[str, Any], key: str) -> Attribute:
    """One attribute; `values_from` takes the names of clothing values without their effects."""
    spec = source["attributes"][key]
    values = spec.get("values")
    if values is None:
        values = {value: [] for value in table("clothes")["attributes"][spec["values_from"]]["values"]}
    return Attribute(
        spec["frame"], spec["effect"], values, spec.get("say", {}), spec.get("head", ""), spec.get("head_say", {})
    )


def _narrowed(attribute: Attribute, values: list[str] | None) -> Attribute:
    if values is None:
        return attribute
    return replace(attribute, values={value: attribute.values[value] for value in values})
