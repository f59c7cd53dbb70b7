"""`MindFormerRegister`, `MindFormerModuleType` and `MindFormerConfig` as users' own classes call them.

@MindFormerRegister.register(MindFormerModuleType.DATASET_LOADER)
class OwnDataLoader: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.config.loader import read_yaml
from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import (
    CALLBACKS,
    CONFIGS,
    DATA_HANDLERS,
    DATA_LOADERS,
    DATASETS,
    LR_SCHEDULES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    PIPELINES,
    PROCESSORS,
    SCALE_SENSES,
    TOKENIZERS,
    TRAINERS,
    WRAPPERS,
    Registry,
)

_REGISTRIES: dict[str, Registry] = {
    "config": CONFIGS,
    "models": MODELS,
    "tokenizer": TOKENIZERS,
    "processor": PROCESSORS,
    "dataset_loader": DATA_LOADERS,
    "data_handler": DATA_HANDLERS,
    "dataset": DATASETS,
    "lr": LR_SCHEDULES,
    "optimizer": OPTIMIZERS,
    "wrapper": WRAPPERS,
    "scale_sense": SCALE_SENSES,
    "callback": CALLBACKS,
    "metric": METRICS,
    "trainer": TRAINERS,
    "pipeline": PIPELINES,
}


class MindFormerModuleType:
    """Kinds of components. Those that GLM does not have (masks, encoders, image transforms ...) are not there."""

    CONFIG = "config"
    MODELS = "models"
    TOKENIZER = "tokenizer"
    PROCESSOR = "processor"
    DATASET_LOADER = "dataset_loader"
    DATA_HANDLER = "data_handler"
    DATASET = "dataset"
    LR = "lr"
    OPTIMIZER = "optimizer"
    WRAPPER = "wrapper"
    CALLBACK = "callback"
    METRIC = "metric"
    TRAINER = "trainer"
    PIPELINE = "pipeline"


class MindFormerRegister:
    """The registries behind one class, by kind and name."""

    @classmethod
    def register(cls, module_type: str, alias: str | None = None) -> Callable[[Any], Any]:
        """Decorator: registers a class or function under its own name, and under `alias`."""
        return _registry(module_type).register(*([alias] if alias else []))

    @classmethod
    def register_cls(cls, register_class: Any, module_type: str, alias: str | None = None) -> Any:
        """Registers a class and returns it."""
        return cls.register(module_type, alias)(register_class)

    @classmethod
    def is_exist(cls, module_type: str, class_name: str | None = None) -> bool:
        """Whether there is such a kind, and in it such a name."""
        registry = _REGISTRIES.get(module_type)
        return registry is not None and (class_name is None or class_name in registry)

    @classmethod
    def get_cls(cls, module_type: str, class_name: str) -> Any:
        """The class of a name. Raises ConfigError, which is a ValueError, where there is none."""
        return _registry(module_type).get(class_name)

    @classmethod
    def get_instance_from_cfg(
        cls, cfg: Mapping[str, Any], module_type: str, default_args: Mapping[str, Any] | None = None
    ) -> Any:
        """What a section describes; `default_args` win over its keys."""
        return _registry(module_type).build({**cfg, **(default_args or {})}, module_type)

    @classmethod
    def get_instance(cls, module_type: str, class_name: str, **arguments: Any) -> Any:
        """An object of a class."""
        return cls.get_cls(module_type, class_name)(**arguments)


class MindFormerConfig(dict):
    """The keys of one or more YAML files, `base_config` read in, also as attributes: `config.model.model_config`.

    Raises:
        ConfigError: a file is missing or is not YAML.
    """

    def __init__(self, *files: str | Path, **values: Any) -> None:
        given: dict[str, Any] = {}
        for file in files:
            given.update(file if isinstance(file, Mapping) else read_yaml(file))
        super().__init__({key: _attributed(value) for key, value in {**given, **values}.items()})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = _attributed(value)

    def __delattr__(self, name: str) -> None:
        self.pop(name, None)


def with_type(config: Mapping[str, Any] | None, class_name: str | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One section of what the builders of MindFormers are given: a section, or a class and its arguments."""
    section = {**(config or {}), **arguments}
    return section if class_name is None else {**section, "type": class_name}


def _registry(module_type: str) -> Registry:
    if module_type not in _REGISTRIES:
        raise ConfigError("module_type", module_type, f"Use one of {', '.join(_REGISTRIES)}.")
    return _REGISTRIES[module_type]


def _attributed(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value, MindFormerConfig):
        return MindFormerConfig(**{str(key): item for key, item in value.items()})
    return [_attributed(item) for item in value] if isinstance(value, list) else value
