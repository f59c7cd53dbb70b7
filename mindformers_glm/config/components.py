"""Sections that name a class: each is checked against the signature of that class before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.ranges import range_faults
from mindformers_glm.config.schema import DatasetSection, known_keys
from mindformers_glm.config.signatures import fits, is_named
from mindformers_glm.config.spec import PLACES, Place, inner_names, named
from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import DATASETS, TRAINERS, Registry, unknown_key

Values = Mapping[str, Any]
_DATASET = ("dataset_config", "rank", "rank_size")  # arguments that the program supplies
_NUMBERS = {  # components that may also be a number
    "optimizer.learning_rate": "Give a number or a schedule with `type`.",
    "runner_wrapper.scale_sense": "Give a number above 0, or a mapping with `type: DynamicLossScaleUpdateCell`.",
}


def check_components(values: Values, parsed: dict[str, BaseModel] | None = None) -> list[ConfigError]:
    """Faults of every component that is given and whose class is there.

    `parsed` receives, by key, what the classes that are models made of their values, so that none is read twice.
    """
    parsed = {} if parsed is None else parsed
    faults = _check_name(TRAINERS, values.get("trainer"), "trainer")
    for key, place in PLACES.items():
        given = lookup(values, key)
        if key == "report_to":
            given = named(given)
        specs = [(f"{key}.{n}", one) for n, one in enumerate(given)] if isinstance(given, list) else [(key, given)]
        for at, spec in specs if place.is_list or not isinstance(given, list) else []:
            faults += _check(place, _without(spec, inner_names(key)), at, parsed)
        if key in _NUMBERS and not isinstance(given, Mapping):
            faults += _number_faults(given, key)
    for name in ("train_dataset", "eval_dataset"):
        faults += _check_dataset(_mapping(values.get(name)), _mapping(values.get(f"{name}_task")), name)
    return faults


def _number_faults(given: Any, key: str) -> list[ConfigError]:
    """Faults of a number that stands for a component."""
    if given is None:
        return []
    section, _, name = key.partition(".")
    faults = range_faults(section, {name: given}, section) if section == "optimizer" else []
    is_fit = _is_number(given) and (section == "optimizer" or float(given) > 0)
    return faults if is_fit else [*faults, ConfigError(key, given, _NUMBERS[key])]


def _check_dataset(section: Values, task: Values, name: str) -> list[ConfigError]:
    """Faults of the keys of a dataset: those that the class does not take, and those that only it knows."""
    faults = _check_name(DATASETS, task, f"{name}_task")
    typed = known_keys(DatasetSection)
    kind = task.get("type", "KeyWordGenDataset")
    if kind not in DATASETS and not DATASETS.names():
        return faults + [unknown_key(f"{name}.{key}", section[key], typed) for key in section if key not in typed]
    if not section or not isinstance(kind, str) or kind not in DATASETS:
        return faults
    faults += range_faults(DATASETS.kind, {key: section[key] for key in section if key not in typed}, name)
    found = DATASETS.check({**section, "type": kind}, name, runtime=_DATASET)
    by_class = [fault for fault in found if fault.key.removeprefix(f"{name}.") not in typed]
    return faults + by_class + [fault for fault in found if fault not in by_class and "Unknown key" in fault.fix]


def _check(place: Place, spec: Any, key: str, parsed: dict[str, BaseModel]) -> list[ConfigError]:
    """Faults of a component; none where it is absent or no mapping (the schema says so).

    Its class is checked where classes are registered.
    """
    if not isinstance(spec, Mapping):
        return []
    registry, name = place.registry, spec.get("type")
    faults = range_faults(registry.kind, spec, key)
    if fits(registry.kind, spec) or (name not in registry and not registry.names()):
        return faults
    model, found = registry.parsed(spec, key)
    if model is not None:
        parsed[key] = model
        return faults
    return faults + (found or registry.check(spec, key, runtime=place.runtime))


def _check_name(registry: Registry, section: Any, key: str) -> list[ConfigError]:
    name = _mapping(section).get("type")
    if not isinstance(name, str) or is_named(registry.kind, name) or (name not in registry and not registry.names()):
        return []
    try:
        registry.get(name, f"{key}.type")
    except ConfigError as error:
        return [error]
    return []


def _without(spec: Any, names: set[str]) -> Any:
    return {key: value for key, value in spec.items() if key not in names} if isinstance(spec, Mapping) else spec


def _mapping(value: Any) -> Values:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
