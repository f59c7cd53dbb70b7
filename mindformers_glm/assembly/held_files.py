"""A network without MindSpore from a name, folder or file: its configuration, weights and adapter.

What the kernels alone cannot compute is `NeedsMindSpore`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers_glm.adapters.config import LoraConfig
from mindformers_glm.assembly.configuration import changed, config_of, is_whole, read_adapter, with_small_table
from mindformers_glm.assembly.held import HeldNetwork
from mindformers_glm.assembly.parts import Parts, parts_of
from mindformers_glm.checkpoint.convert.checks import check_weights_fit
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError, listed
from mindformers_glm.log import log_once
from mindformers_glm.models import naming
from mindformers_glm.models.described import LINEAR
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.kernels import library


class NeedsMindSpore(Exception):
    """A network that the kernels alone cannot compute; the text says why."""

    def __init__(self, *reasons: str) -> None:
        told = "; ".join(reasons[:3])
        super().__init__(f"MindSpore's network is loaded, as the kernels alone cannot compute this: {told}")


def load_held(
    model: str | Path, *, adapter: str | Path | None = None, lora_alpha: float | None = None, **changes: Any
) -> HeldNetwork:
    """The network of a registered name, hub id, folder, weight file or run, with its weights and adapter.

    `changes` are keys of its configuration. Where they do not ask for another `compute_dtype` it is float32: what a
    published folder states is the type of GPUs.

    Raises:
        NeedsMindSpore: the kernels alone cannot compute it.
        ConfigError, CheckpointError: no such model, or its weights do not fit. Random weights never stand in.
    """
    if library.library() is None:
        raise NeedsMindSpore("there are no kernels for this device")
    parts = parts_of(model, adapter=adapter)
    if is_divided(parts.base.weights):
        raise NeedsMindSpore("its weights are divided among ranks")
    config, source = _configured(parts, lora_alpha, changes)
    if "compute_dtype" not in changes:
        config = _computed_here(config, model)
    if reasons := obstacles(config):
        raise NeedsMindSpore(*reasons)
    return filled(parts, config, source)


def is_divided(place: Path) -> bool:
    """Whether ranks of a run have divided the weights of a folder among them, as its strategy says."""
    if not any(place.glob("rank_*/*.ckpt")):
        return False
    from mindformers_glm.assembly.weights import divided_weights  # noqa: PLC0415 - few folders are so

    return divided_weights(place, None) is not None


def _configured(
    parts: Parts, lora_alpha: float | None, changes: dict[str, Any]
) -> tuple[NetworkConfig, WeightSource | None]:
    """The configuration with its changes, and the adapter's weights, not yet read."""
    known, source = config_of(parts.base), None
    if parts.adapter is not None:
        source, pet_config = read_adapter(parts.adapter, known, lora_alpha, given=changes.get("pet_config"))
        changes = {"pet_config": pet_config, **changes}
    return (changed(known, changes) if changes else known.settled()), source


def filled(parts: Parts, config: NetworkConfig, adapter: WeightSource | None) -> HeldNetwork:
    """The network of a configuration with its weights and adapter.

    Raises:
        CheckpointError: its weights do not fit.
    """
    place = parts.base.weights
    weights = parts.base.read()
    check_weights_fit(weights, config)
    config = with_small_table(config, weights, ("float16", "bfloat16"))
    network = HeldNetwork(config) if not is_whole(config) else _with_whole_layers(config, weights, place)
    network.load(weights, new_adapter=adapter is not None)
    if adapter is not None:
        network.load(adapter)
    if missing := network.missing():
        raise CheckpointError(str(place), f"nothing tells {listed(missing, 3)}", "Load a checkpoint of this network.")
    return network


def _with_whole_layers(config: NetworkConfig, weights: WeightSource, place: Path) -> HeldNetwork:
    from mindformers_glm.assembly.whole_layers import folder_of, layers_of  # noqa: PLC0415 - few models have them

    names = [getattr(block, name) for block in naming.parts(config).blocks for name in LINEAR]
    whole = layers_of(config, weights, place, names)
    return HeldNetwork(config, whole=whole, place=str(folder_of(config, place)))


def _computed_here(config: NetworkConfig, model: str | Path) -> NetworkConfig:
    """The configuration for this CPU: it multiplies in float32, whatever type a published folder states.

    Weights are held as the folder says, and read as they lie there.
    """
    if config.compute_dtype == "float32":
        return config
    log_once(f"{model}: compute_dtype {config.compute_dtype}: this CPU computes in float32, from weights as they are")
    return config.model_copy(update={"compute_dtype": "float32"})


def obstacles(config: NetworkConfig) -> list[str]:
    """Why a network of this configuration cannot be computed by the kernels from its files."""
    if not naming.is_described(config):
        return ["only its network tells what its weights are"]
    found = [
        f"{key} is {value}"
        for key, value in (
            ("compute_dtype", config.compute_dtype),
            ("layernorm_compute_type", config.layernorm_compute_type),
            ("the type of hidden states", config.stream_dtype),
        )
        if value != "float32"
    ]
    adapter = config.adapter
    if isinstance(adapter, LoraConfig):
        if adapter.compute_dtype == "float16":
            found.append("its adapter is computed in float16")
        if is_whole(config):
            found.append("W8A8 layers have an adapter")
    if is_whole(config) and any(size % 4 for size in (config.hidden_size, config.ffn_hidden_size)):
        found.append("W8A8 layers whose columns are no multiple of 4")
    return found
