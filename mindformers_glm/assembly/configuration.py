"""The configuration of a network whose weights lie somewhere, and of the adapter on it. No MindSpore here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindformers_glm.assembly.parts import settings_of
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.checkpoint.load.resolve import Resolved
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.config.names import CONFIGS_DIR, MODEL_NAMES
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import is_table
from mindformers_glm.registry import CONFIGS


def changed(config: NetworkConfig, overrides: dict[str, Any]) -> NetworkConfig:
    """The configuration with some keys replaced, checked again.

    Raises:
        ConfigError: an unknown key, or a value that does not fit.
    """
    stated = config.model_dump(exclude_unset=True)
    return CONFIGS.build({"type": type(config).__name__, **stated, **overrides}, "model_config").settled()


def with_small_table(
    config: NetworkConfig, weights: WeightSource, types: Sequence[str] = ("float16",)
) -> NetworkConfig:
    """The embedding of a network of integers in two bytes where the file has it so: no number changes, and as float32
    it takes a third of what all layers of ChatGLM2-6B take in 4 bits. What a configuration says of it stays. `types`
    are those of two bytes that tokens can be looked up in: MindSpore's operators on a CPU know no bfloat16 there.
    """
    tables = [weights.dtype(name) for name in weights.names if is_table(name)]
    is_small = len(tables) == 1 and tables[0] in types
    if not config.quantization_bit or "embedding_type" in config.model_fields_set or not is_small:
        return config
    return changed(config, {"embedding_type": tables[0]})


def is_whole(config: NetworkConfig) -> bool:
    """True for a network whose scheme puts other layers in the place of linear ones."""
    return config.quantization_scheme is not None and not config.quantization_bit


def config_of(found: Resolved) -> NetworkConfig:
    """The configuration beside weights, or of the registered name that they were found by.

    Raises:
        CheckpointError: there is none.
    """
    if found.files.config is not None:
        return found.files.config
    names = [name for name, row in MODEL_NAMES.items() if found.name in (name, row.hub_id)]
    if names:
        return read_config(CONFIGS_DIR / MODEL_NAMES[names[0]].yaml)[0]
    fix = "Put config.json or the YAML it was saved with beside it, or build the network with AutoModel.from_config."
    raise CheckpointError(str(found.weights), "no configuration of the network lies beside the weights", fix)


def read_adapter(
    found: Resolved,
    base: NetworkConfig,
    lora_alpha: float | None = None,
    *,
    given: dict[str, Any] | None = None,
) -> tuple[WeightSource, dict[str, Any]]:
    """An adapter's weights, not yet read, and the `pet_config` that its network needs, `given` where no file tells it.

    Raises:
        CheckpointError: it is no adapter, or no file tells the alpha of a LoRA.
    """
    source = found.read()
    if source.kind in ("weights", "nothing") and not source.unknown:
        raise CheckpointError(str(source.path), "it holds no adapter", "Name a LoRA or a prefix, or leave it out.")
    told = settings_of(found, source, lora_alpha=lora_alpha)
    if told is None and (given or base.pet_config):
        told = dict(given or base.pet_config or {})
    if told is None:
        fix = "Give lora_alpha (--lora_alpha) as the adapter was trained with, or a PEFT folder, or merge it first."
        raise CheckpointError(str(source.path), "no file tells the alpha of a LoRA here", fix)
    return source, told
