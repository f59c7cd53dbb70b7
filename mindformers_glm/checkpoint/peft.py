"""Adapters as the `peft` package keeps them: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.adapters.config import read_pet_config
from mindformers_glm.checkpoint.names import LORA_NAME
from mindformers_glm.errors import CheckpointError, ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What peft can do to LoRA that would change the numbers and that this network has not: key -> values that are harmless.
_PLAIN = {
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None, []),
    "layer_replication": (None, []),
}


def read_adapter_config(folder: str | Path) -> dict[str, Any]:
    """The `pet_config` that an adapter_config.json stands for: lora_rank, lora_alpha, lora_dropout, target_modules.

    Raises:
        CheckpointError: no LoRA, or a variant of LoRA that changes the numbers (DoRA, rank patterns, ...).
    """
    path = Path(folder) / CONFIG
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        kind, rank, alpha = given["peft_type"], given["r"], given["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(str(path), f"not the configuration of a LoRA ({error})", "Copy it again.") from error
    if kind != "LORA":
        raise CheckpointError(str(path), f"the adapter is of type {kind}", "Only LORA is read.")
    for key, harmless in _PLAIN.items():
        if given.get(key) not in harmless:
            raise CheckpointError(
                str(path), f"{key} is {given[key]!r}", "This variant of LoRA is not implemented; merge it with peft."
            )
    targets = given.get("target_modules") or ["query_key_value"]
    pattern = (
        targets if isinstance(targets, str) else "|".join(f"{name.rpartition('.')[2]}$" for name in sorted(targets))
    )
    config = {
        "pet_type": "lora",
        "lora_rank": rank,
        "lora_alpha": alpha,
        "lora_dropout": given.get("lora_dropout", 0.0),
        "target_modules": pattern,
    }
    read_pet_config(config)
    return config


def adapter_config(pet_config: Mapping[str, Any], layers: list[str], *, base: str | None = None) -> dict[str, Any]:
    """The content of an adapter_config.json; `layers` are the adapted layers' names, which give the targets.

    Raises:
        ConfigError: `pet_config` is no LoRA.
    """
    pet = read_pet_config(pet_config)
    if pet.pet_type != "lora":
        raise ConfigError("pet_config.pet_type", pet.pet_type, "Only lora has a form in peft.")
    alpha = int(pet.lora_alpha) if float(pet.lora_alpha).is_integer() else pet.lora_alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": pet.lora_rank,
        "lora_alpha": alpha,
        "lora_dropout": pet.lora_dropout,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in layers}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def peft_name(ours: str) -> str:
    """The name in peft of one of our LoRA parameters."""
    layer, _, letter = ours.partition(LORA_NAME)
    return f"{_PREFIX}{layer}.lora_{letter.upper()}.weight"


def adapted_layers(names: list[str]) -> list[str]:
    """The layers that have LoRA parameters among `names`."""
    return sorted({name.partition(LORA_NAME)[0] for name in names if LORA_NAME in name})
