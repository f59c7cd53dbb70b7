"""What an adapter's files tell of it: the `pet_config` that its network needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers_glm.adapters.config import read_pet_config
from mindformers_glm.checkpoint.load import peft
from mindformers_glm.checkpoint.load.names import LORA_NAME, PREFIX_NAME
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.models.interface import NetworkConfig


def adapter_settings(
    source: WeightSource, folder: Path | None, config: NetworkConfig | None, lora_alpha: float | None
) -> dict[str, Any] | None:
    """The `pet_config` of the adapter in a checkpoint, None where it has none or no file tells a LoRA's alpha.

    `folder` is that of an adapter_config.json, `config` the network's configuration that lies beside the weights. The
    length of a prefix stands in its table's shape; the alpha of a LoRA must be told.
    """
    if folder is not None:
        return peft.read_adapter_config(folder)
    if PREFIX_NAME in source:
        return {"pet_type": "ptuning2", "pre_seq_len": source.shape(PREFIX_NAME)[0]}
    if config is not None and config.pet_config:
        return read_pet_config(config.pet_config).model_dump(exclude_none=True)
    layers = peft.adapted_layers(source.names)
    if lora_alpha is None or not layers:
        return None
    rank = source.shape(layers[0] + LORA_NAME + "a")[0]
    dora = {"use_dora": True} if layers[0] + LORA_NAME + "m" in source else {}
    leaves = sorted({layer.rpartition(".")[2] + "$" for layer in layers})
    told = {"pet_type": "lora", "lora_rank": rank, "lora_alpha": lora_alpha, "target_modules": "|".join(leaves)}
    return {**told, **dora}
