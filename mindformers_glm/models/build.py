"""A network, without weights, from its configuration or the section of a YAML that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspore import nn

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.registry import CONFIGS, MODELS


def build_model(spec: Mapping[str, Any] | NetworkConfig, *, key: str = "model") -> nn.Cell:
    """The network of a YAML `model` section (`model_config` and `arch`), or of a configuration, with its adapters.

    Raises:
        ConfigError: a key or value of the section is wrong, or the device cannot run it.
    """
    if isinstance(spec, NetworkConfig):
        return FAMILIES.of(spec).network_class()(spec)
    if "model_config" not in spec:
        raise ConfigError(f"{key}.model_config", None, "This key must be given.")
    section = {"type": FAMILIES.default().config_class().__name__, **spec["model_config"]}
    config = CONFIGS.build(section, f"{key}.model_config")
    arch = (spec.get("arch") or {}).get("type")
    return MODELS.get(arch, f"{key}.arch.type")(config) if arch else build_model(config)
