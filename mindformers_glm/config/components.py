"""Sections that name a class: each is checked against the signature of that class before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
)

# Arguments that the program supplies; YAML cannot.
RUNTIME = {
    "model": ("config", "network"),
    "optimizer": ("params", "parameters"),
    "wrapper": ("network", "optimizer"),
    "metric": ("tokenizer",),
    "processor": ("tokenizer",),
    "schedule": ("key", "steps_per_epoch"),
}


def check_components(values: Mapping[str, Any]) -> list[ConfigError]:
    """Faults of every component that is given and whose registry has been filled."""
    faults: list[ConfigError] = []
    model = _mapping(values.get("model"))
    faults += _check(CONFIGS, model, "model_config", "model")
    faults += _check(MODELS, model, "arch", "model", runtime=RUNTIME["model"])
    faults += check_optimizer(values.get("optimizer"))
    faults += check_schedule(values.get("lr_schedule"), "lr_schedule")
    faults += _check_wrapper(values.get("runner_wrapper"))
    faults += _check_metrics(values.get("metric"))
    faults += _check_processor(values.get("processor"))
    for name in ("callbacks", "eval_callbacks"):
        for index, spec in enumerate(values.get(name) or []):
            faults += _check(CALLBACKS, {str(index): spec}, str(index), name)
    for name in ("train_dataset", "eval_dataset"):
        dataset = _mapping(values.get(name))
        faults += _check(DATA_LOADERS, dataset, "data_loader", name)
        faults += _check(TOKENIZERS, dataset, "tokenizer", name)
        faults += _check_name(DATASETS, _mapping(values.get(f"{name}_task")), f"{name}_task")
    return faults + _check_name(TRAINERS, _mapping(values.get("trainer")), "trainer")


def check_optimizer(spec: Any) -> list[ConfigError]:
    """Faults of `optimizer`; its `learning_rate` may be a number or a schedule."""
    if not isinstance(spec, Mapping):
        return []
    rate = spec.get("learning_rate")
    plain = {key: value for key, value in spec.items() if key != "learning_rate"}
    faults = _check(OPTIMIZERS, {"optimizer": plain}, "optimizer", "", runtime=RUNTIME["optimizer"])
    if isinstance(rate, Mapping):
        return faults + check_schedule(rate, "optimizer.learning_rate")
    if rate is not None and not _is_number(rate):
        faults.append(ConfigError("optimizer.learning_rate", rate, "Give a number or a schedule with `type`."))
    return faults


def check_schedule(spec: Any, key: str) -> list[ConfigError]:
    """Faults of a learning-rate schedule."""
    return _check(LR_SCHEDULES, {key: spec}, key, "", runtime=RUNTIME["schedule"])


def _check_wrapper(spec: Any) -> list[ConfigError]:
    if not isinstance(spec, Mapping):
        return []
    scale = spec.get("scale_sense")
    plain = {key: value for key, value in spec.items() if key != "scale_sense"}
    faults = _check(WRAPPERS, {"_": plain}, "_", "", runtime=(*RUNTIME["wrapper"], "scale_sense"))
    faults = [_moved(fault, "_", "runner_wrapper") for fault in faults]
    if isinstance(scale, Mapping):
        return faults + _check(SCALE_SENSES, spec, "scale_sense", "runner_wrapper")
    if scale is not None and not (_is_number(scale) and float(scale) > 0):
        fix = "Give a number above 0, or a mapping with `type: DynamicLossScaleUpdateCell`."
        faults.append(ConfigError("runner_wrapper.scale_sense", scale, fix))
    return faults


def _check_metrics(spec: Any) -> list[ConfigError]:
    if isinstance(spec, list):
        named = {str(index): item for index, item in enumerate(spec)}
        return [fault for name in named for fault in _check(METRICS, named, name, "metric", runtime=RUNTIME["metric"])]
    return _check(METRICS, {"metric": spec}, "metric", "", runtime=RUNTIME["metric"])


def _check_processor(spec: Any) -> list[ConfigError]:
    if not isinstance(spec, Mapping):
        return []
    plain = {key: value for key, value in spec.items() if key != "tokenizer"}
    faults = _check(PROCESSORS, {"processor": plain}, "processor", "", runtime=RUNTIME["processor"])
    return faults + _check(TOKENIZERS, spec, "tokenizer", "processor")


def _check(
    registry: Registry, section: Mapping[str, Any], name: str, above: str, *, runtime: tuple[str, ...] = ()
) -> list[ConfigError]:
    """Faults of `section[name]`; none where it is absent, or nothing of its kind has been registered."""
    spec = section.get(name)
    if not isinstance(spec, Mapping) or not registry.names():
        return []
    return registry.check(spec, f"{above}.{name}".strip("."), runtime=runtime)


def _check_name(registry: Registry, section: Mapping[str, Any], key: str) -> list[ConfigError]:
    if not registry.names() or not isinstance(section.get("type"), str):
        return []
    try:
        registry.get(section["type"], f"{key}.type")
    except ConfigError as error:
        return [error]
    return []


def _moved(fault: ConfigError, old: str, new: str) -> ConfigError:
    return ConfigError(fault.key.replace(old, new, 1), fault.got, fault.fix)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any, kind: type = float) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return kind(value) == float(value)
    except (TypeError, ValueError):
        return False
