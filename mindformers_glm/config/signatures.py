"""What components take, from a generated file: a description that is right is known to be so without its class.

The classes of optimizers, schedules, callbacks and networks import MindSpore, which takes seconds; a run that predicts
builds none of them. Whatever this file cannot vouch for is checked against the class itself.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mindformers_glm.registry import Registry

FILE = "signatures.json"
_OWN = ("mindformers_glm.", "mindspore.")  # not the classes of users, nor of tests
_PROBES: dict[str, tuple[Any, ...]] = {  # a type is taken where all of these are
    "bool": (True, False),
    "int": (-(2**62), -1, 0, 1, 2**62),
    "float": (-1e300, -0.5, 0.5, 1e300),
    "str": ("", "a", "a" * 300),
    "NoneType": (None,),
}


def fits(kind: str, spec: Mapping[str, Any]) -> bool:
    """True where a description names a known component of a kind and gives what it takes. False says nothing."""
    name = spec.get("type")
    known = _known().get(kind, {}).get(name) if isinstance(name, str) else None
    if known is None:
        return False
    given = {name: value for name, value in spec.items() if name != "type"}
    return set(known["required"]) <= set(given) and all(
        type(value).__name__ in known["arguments"].get(name, ()) and (type(value) is not float or math.isfinite(value))
        for name, value in given.items()
    )


def is_named(kind: str, name: str) -> bool:
    """True where a kind has a component of this name."""
    return name in _known().get(kind, {})


def described(registries: Iterable[tuple[Registry, tuple[str, ...]]]) -> dict[str, Any]:
    """The content of the file: kind -> name -> required arguments, and for each argument the types that it takes.

    Beside each registry stand the arguments that the program supplies.
    """
    return {
        registry.kind: {
            name: _signature(registry, name, set(runtime))
            for name in registry.names()
            if registry.get(name).__module__.startswith(_OWN)
        }
        for registry, runtime in registries
    }


def _signature(registry: Registry, name: str, runtime: set[str]) -> dict[str, Any]:
    parameters = inspect.signature(registry.get(name)).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in runtime]
    required = sorted(p.name for p in named if p.default is p.empty)
    whole: dict[str, Any] = dict.fromkeys(required)
    arguments: dict[str, list[str]] = {}
    for parameter in named:
        arguments[parameter.name] = [
            kind
            for kind, values in _PROBES.items()
            if not any(
                fault.key == f"{name}.{parameter.name}"
                for value in values
                for fault in registry.check({**whole, parameter.name: value, "type": name}, name, runtime=runtime)
            )
        ]
    return {"required": required, "arguments": arguments}


@cache
def _known() -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads((Path(__file__).parent / FILE).read_text(encoding="utf-8"))
