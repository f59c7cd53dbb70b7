"""Sections that name a class: each is checked against the signature of that class before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mindformers_glm.config.ranges import range_faults
from mindformers_glm.config.schema import DatasetSection, known_keys
from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import (
    CALLBACKS,
    CONFIGS,
    DATA_LOADERS,
    DATASETS,
    LR_SCHEDULES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    PROCESSORS,
    SCALE_SENSES,
    TOKENIZERS,
    TRAINERS,
    WRAPPERS,
    Registry,
    unknown_key,
)

Values = Mapping[str, Any]
# Arguments that the program supplies; YAML cannot.
_MODEL = ("config", "network")
_DATASET = ("dataset_config", "rank", "rank_size")
_OPTIMIZER = ("params", "parameters")
_SCHEDULE = ("key", "steps_per_epoch")
_WRAPPER = ("network", "optimizer", "scale_sense")
_PROCESSOR = _METRIC = ("tokenizer",)


def check_components(values: Values) -> list[ConfigError]:
    """Faults of every component that is given and whose registry has been filled."""
    model = _mapping(values.get("model"))
    faults = [
        *_check(CONFIGS, model.get("model_config"), "model.model_config"),
        *_check(MODELS, model.get("arch"), "model.arch", _MODEL),
        *_check_optimizer(values.get("optimizer")),
        *_check(LR_SCHEDULES, values.get("lr_schedule"), "lr_schedule", _SCHEDULE),
        *_check_wrapper(values.get("runner_wrapper")),
        *_check_processor(values.get("processor")),
        *_check_name(TRAINERS, values.get("trainer"), "trainer"),
    ]
    metric = values.get("metric")
    for key, spec in _numbered("metric", metric) if isinstance(metric, list) else [("metric", metric)]:
        faults += _check(METRICS, spec, key, _METRIC)
    for name in ("callbacks", "eval_callbacks"):
        for key, spec in _numbered(name, values.get(name)):
            faults += _check(CALLBACKS, spec, key)
    for name in ("train_dataset", "eval_dataset"):
        faults += _check_dataset(_mapping(values.get(name)), _mapping(values.get(f"{name}_task")), name)
    return faults


def _check_dataset(section: Values, task: Values, name: str) -> list[ConfigError]:
    """Faults of loader, tokenizer, and of keys: those that the class does not take, and those that only it knows."""
    faults = [
        *_check(DATA_LOADERS, section.get("data_loader"), f"{name}.data_loader"),
        *_check(TOKENIZERS, section.get("tokenizer"), f"{name}.tokenizer"),
        *_check_name(DATASETS, task, f"{name}_task"),
    ]
    typed = known_keys(DatasetSection)
    if not DATASETS.names():
        return faults + [unknown_key(f"{name}.{key}", section[key], typed) for key in section if key not in typed]
    kind = task.get("type", "KeyWordGenDataset")
    if not section or not isinstance(kind, str) or kind not in DATASETS:
        return faults
    faults += range_faults(DATASETS.kind, {key: section[key] for key in section if key not in typed}, name)
    found = DATASETS.check({**section, "type": kind}, name, runtime=_DATASET)
    by_class = [fault for fault in found if fault.key.removeprefix(f"{name}.") not in typed]
    return faults + by_class + [fault for fault in found if fault not in by_class and "Unknown key" in fault.fix]


def _check_optimizer(spec: Any) -> list[ConfigError]:
    """Faults of `optimizer`; its `learning_rate` may be a number or a schedule."""
    rate = _mapping(spec).get("learning_rate")
    faults = _check(OPTIMIZERS, _without(spec, "learning_rate"), "optimizer", _OPTIMIZER)
    if isinstance(rate, Mapping):
        return faults + _check(LR_SCHEDULES, rate, "optimizer.learning_rate", _SCHEDULE)
    if rate is not None:
        faults += range_faults("optimizer", {"learning_rate": rate}, "optimizer")
    if rate is not None and not _is_number(rate):
        faults.append(ConfigError("optimizer.learning_rate", rate, "Give a number or a schedule with `type`."))
    return faults


def _check_wrapper(spec: Any) -> list[ConfigError]:
    """Faults of `runner_wrapper`; its `scale_sense` may be a number or a loss scale."""
    scale = _mapping(spec).get("scale_sense")
    faults = _check(WRAPPERS, _without(spec, "scale_sense"), "runner_wrapper", _WRAPPER)
    if isinstance(scale, Mapping):
        return faults + _check(SCALE_SENSES, scale, "runner_wrapper.scale_sense")
    if scale is not None and not (_is_number(scale) and float(scale) > 0):
        fix = "Give a number above 0, or a mapping with `type: DynamicLossScaleUpdateCell`."
        faults.append(ConfigError("runner_wrapper.scale_sense", scale, fix))
    return faults


def _check_processor(spec: Any) -> list[ConfigError]:
    return [
        *_check(PROCESSORS, _without(spec, "tokenizer"), "processor", _PROCESSOR),
        *_check(TOKENIZERS, _mapping(spec).get("tokenizer"), "processor.tokenizer"),
    ]


def _check(registry: Registry, spec: Any, key: str, runtime: tuple[str, ...] = ()) -> list[ConfigError]:
    """Faults of a component; none where it is absent or no mapping (the schema says so).

    Its class is checked where classes are registered.
    """
    if not isinstance(spec, Mapping):
        return []
    faults = range_faults(registry.kind, spec, key)
    return faults + registry.check(spec, key, runtime=runtime) if registry.names() else faults


def _check_name(registry: Registry, section: Any, key: str) -> list[ConfigError]:
    name = _mapping(section).get("type")
    if not registry.names() or not isinstance(name, str):
        return []
    try:
        registry.get(name, f"{key}.type")
    except ConfigError as error:
        return [error]
    return []


def _numbered(name: str, specs: Any) -> list[tuple[str, Any]]:
    return [(f"{name}.{index}", spec) for index, spec in enumerate(specs)] if isinstance(specs, list) else []


def _without(spec: Any, name: str) -> Any:
    return {key: value for key, value in spec.items() if key != name} if isinstance(spec, Mapping) else spec


def _mapping(value: Any) -> Values:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
