"""A network with its weights, from a name, folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindformers_glm.assembly.memory import check_length
from mindformers_glm.assembly.parts import parts_of, settings_of
from mindformers_glm.assembly.ranks import Ranks
from mindformers_glm.assembly.weights import SourceArrays, whole_weights
from mindformers_glm.assembly.whole_numbers import put_whole_numbers
from mindformers_glm.checkpoint.convert.checks import check_fits
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.checkpoint.load.resolve import Resolved
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.config.names import CONFIGS_DIR, MODEL_NAMES
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.build import build_model
from mindformers_glm.models.initial import unfilled
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.parallel.mesh import SINGLE, Mesh
from mindformers_glm.registry import CONFIGS


def load_network(
    name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    lora_alpha: float | None = None,
    partial: bool = False,
    config: NetworkConfig | None = None,
    download: bool | str | None = None,
    revision: str | None = None,
    is_own: bool = False,
    mesh: Mesh = SINGLE,
    **changes: Any,
) -> nn.Cell:
    """The network of a registered name, hub id, folder, weight file or run, with its weights and adapter.

    `adapter` is a PEFT folder, an official P-Tuning folder, or a checkpoint with LoRA or a prefix; the alpha of a LoRA
    is `lora_alpha` where no file tells it. `changes` are keys of the configuration, over `config` where that is given.
    `is_own` says that `config` is the very one to build: an adapter that it asks for may be new. In a `mesh` of several
    ranks it is this rank's part of the network.

    Raises:
        ConfigError, CheckpointError: no such model, or its weights do not fit. Random weights never stand in.
    """
    parts = parts_of(name_or_path, adapter=adapter, download=download, revision=revision)
    known, source = config or config_of(parts.base), None
    if parts.adapter is not None:
        source, pet_config = read_adapter(parts.adapter, known, lora_alpha, given=changes.get("pet_config"))
        changes = {"pet_config": pet_config, **changes}
    known = changed(known, changes) if changes else known.settled()
    weights: Any = whole_weights(parts.base.weights)
    if weights is None:
        weights = parts.base.read()
        check_fits(weights, known)
    if mesh.size > 1:
        new = is_own or source is not None
        return _part(known, mesh, weights, source, place=parts.base.weights, partial=partial, new_adapter=new)
    model = empty_network(known)
    put_whole_numbers(model, known, weights, parts.base.weights)
    load_into(model, weights, partial=partial, new_adapter=is_own or source is not None)
    if source is not None:
        load_into(model, source)
    return model


def _part(
    config: NetworkConfig,
    mesh: Mesh,
    weights: Any,
    adapter: WeightSource | None,
    *,
    place: Path,
    partial: bool,
    new_adapter: bool,
) -> nn.Cell:
    """The part of a network that is this rank's, with its part of the weights."""
    check_length(config)
    ranks = Ranks(mesh, config)
    with unfilled():
        model = ranks.network(training=False)
    put_whole_numbers(model, config, weights, place, mesh=mesh)
    whole = SourceArrays(weights) if isinstance(weights, WeightSource) else weights
    load_into(model, ranks.local(whole, model), partial=partial, new_adapter=new_adapter)
    if adapter is not None:
        load_into(model, ranks.local(SourceArrays(adapter), model))
    return model


def empty_network(config: NetworkConfig) -> nn.Cell:
    """A network whose parameters have no values yet, for inference: load weights into it.

    Raises:
        ConfigError: this device or its memory cannot hold it.
    """
    check_length(config)
    with unfilled():
        return build_model(config).set_train(False)


def network_logits(source: WeightSource, config: NetworkConfig, tokens: np.ndarray, *parts: WeightSource) -> np.ndarray:
    """Logits (B, T, V) of a float32 network with the given weights (and adapter) for token ids (B, T)."""
    wide = {"param_init_type": "float32", "compute_dtype": "float32", "embedding_type": "float32"}
    model = empty_network(config.model_copy(update=wide))
    load_into(model, source, new_adapter=bool(parts))
    for part in parts:
        load_into(model, part)
    return model(Tensor(tokens.astype(np.int32))).asnumpy()


def changed(config: NetworkConfig, overrides: dict[str, Any]) -> NetworkConfig:
    """The configuration with some keys replaced, checked again.

    Raises:
        ConfigError: an unknown key, or a value that does not fit.
    """
    stated = config.model_dump(exclude_unset=True)
    return CONFIGS.build({"type": type(config).__name__, **stated, **overrides}, "model_config").settled()


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
