"""The import path of MindFormers for parameter-efficient tuning; it lives in `adapters`."""

from collections.abc import Mapping
from typing import Any

from mindspore import nn

from mindformers_glm.adapters.config import LoraConfig, PrefixConfig
from mindformers_glm.adapters.lora import add_lora
from mindformers_glm.errors import ConfigError

Ptuning2Config = PrefixConfig
__all__ = ["LoraConfig", "PrefixConfig", "Ptuning2Config", "get_pet_model"]


def get_pet_model(model: nn.Cell, pet_config: Mapping[str, Any] | LoraConfig) -> nn.Cell:
    """The network with LoRA attached and everything else frozen.

    Raises:
        ConfigError: the configuration is not LoRA's; a prefix is part of the network's own configuration.
    """
    kind = pet_config.get("pet_type", "lora") if isinstance(pet_config, Mapping) else type(pet_config).__name__
    if "lora" not in str(kind).lower():
        raise ConfigError("pet_config.pet_type", kind, "Build the model with this pet_config in its model_config.")
    return add_lora(model, pet_config)
