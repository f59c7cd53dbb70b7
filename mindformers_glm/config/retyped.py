"""A component whose `type` is another than that of the file below: which inherited arguments stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.spec import inner_names, place_of
from mindformers_glm.registry import DATASETS


class Retyped(dict):
    """A mapping with the keys that were written for another class."""

    inherited: frozenset[str] = frozenset()

    @classmethod
    def of(cls, values: Mapping[str, Any], inherited: Iterable[str]) -> Retyped:
        """The mapping, with what it inherited."""
        made = cls(values)
        made.inherited = frozenset(inherited)
        return made


yaml.SafeDumper.add_representer(Retyped, yaml.SafeDumper.represent_dict)


def retyped(below: Mapping[str, Any], change: Mapping[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """`merged`, which is `change` over `below`, with the keys marked that stem from another `type`.

    A dataset whose task became another class is marked like a component whose own type changed.
    """
    before: frozenset[str] = getattr(below, "inherited", frozenset())
    if "type" in change and "type" in below and change["type"] != below["type"]:
        before = frozenset(below) - {"type"}
    for name in ("train_dataset", "eval_dataset"):
        old, new = (lookup(values, f"{name}_task.type") for values in (below, change))
        if old and new and old != new and isinstance(merged.get(name), dict):
            written = change.get(name)
            merged[name] = Retyped.of(
                merged[name], set(merged[name]) - set(written if isinstance(written, Mapping) else ())
            )
    before -= set(change)
    return Retyped.of(merged, before) if before else merged


def without_inherited(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The file without inherited arguments that a component's new class does not take; a note for each place."""
    notes: list[str] = []

    def visit(value: Any, place: str) -> Any:
        if isinstance(value, list):
            return [visit(item, f"{place}.{index}") for index, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        kept = {key: visit(item, f"{place}.{key}".strip(".")) for key, item in value.items()}
        dropped = _strange(value, place, values)
        if dropped:
            kind = value.get("type") or lookup(values, f"{place}_task.type")
            them = "them" if len(dropped) > 1 else "it"
            notes.append(f"{place}: {', '.join(dropped)} of the file below left out: {kind} does not take {them}.")
        return {key: item for key, item in kept.items() if key not in dropped}

    return visit(values, ""), notes


def _strange(value: Mapping[str, Any], place: str, values: Mapping[str, Any]) -> list[str]:
    inherited: frozenset[str] = getattr(value, "inherited", frozenset()) - inner_names(place) - {"type"}
    if not inherited:
        return []
    accepted = _accepted_at(place, value, values)
    return sorted(key for key in inherited if key in value and not accepted(key))


def _accepted_at(place: str, value: Mapping[str, Any], values: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether the class at a place takes an argument; what nobody can know is taken, and checked later."""
    kind, found = value.get("type"), place_of(place)
    registry = found.registry if found else None
    if place in ("train_dataset", "eval_dataset"):
        kind, registry = lookup(values, f"{place}_task.type"), DATASETS
    if registry is None or not isinstance(kind, str) or kind not in registry:
        return lambda key: True
    names = registry.arguments(kind)
    return lambda key: names is None or key in names
