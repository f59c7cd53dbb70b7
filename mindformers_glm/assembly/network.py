"""A network with its weights, from a name, folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindformers_glm.assembly.configuration import changed, config_of, read_adapter, with_small_table
from mindformers_glm.assembly.memory import check_length
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.ranks import Ranks
from mindformers_glm.assembly.weights import SourceArrays, whole_weights
from mindformers_glm.assembly.whole_numbers import put_whole_numbers
from mindformers_glm.checkpoint.convert.checks import check_weights_fit
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.models.build import build_model
from mindformers_glm.models.initial import unfilled
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.parallel.mesh import SINGLE, Mesh


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
        check_weights_fit(weights, known)
        known = with_small_table(known, weights)
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
