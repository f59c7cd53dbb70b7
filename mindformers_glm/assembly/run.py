"""From a checked configuration to its network with weights, its tokenizer and its datasets."""

from __future__ import annotations

from contextlib import nullcontext

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.memory import check_length
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.ranks import Ranks
from mindformers_glm.assembly.run_data import build_data  # noqa: F401 - parts of a run, which need no MindSpore
from mindformers_glm.assembly.run_tokenizer import build_tokenizer  # noqa: F401
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.config import RunConfig
from mindformers_glm.log import log_once, logger
from mindformers_glm.models.initial import fill, unfilled
from mindformers_glm.models.interface import RecomputeConfig
from mindformers_glm.models.quantized import fill_integers

_SLOW_ON_CPU = (
    "compute_dtype float16 is converted to float32 and back on every operation of this CPU: "
    "--model.model_config.compute_dtype float32 --model.model_config.param_init_type float32 is about ten times faster."
)


def ranks_of(config: RunConfig, *, training: bool) -> Ranks:
    """One process among those of the run, with the whole network's configuration; recomputation is for training only.

    Raises:
        ConfigError: a value of `model` is wrong, or it cannot be divided among the processes as the file says.
    """
    network = config.network.config.build()
    if training:
        section = config.recompute_config
        given = {name: getattr(section, name) for name in RecomputeConfig.model_fields}
        network = network.model_copy(update={"recompute_config": RecomputeConfig.model_construct(**given)})
    return Ranks.of(config, network)


def build_network(config: RunConfig, *, training: bool, ranks: Ranks | None = None) -> nn.Cell:
    """The network of `config.model` (this rank's part of it), without weights; not to be trained, without any values.

    Raises:
        ConfigError: a value of the section is wrong, or the device cannot compute in its types.
    """
    ranks = ranks or ranks_of(config, training=training)
    if runtime.device_target() == "CPU" and ranks.config.compute_dtype == "float16":
        log_once(_SLOW_ON_CPU)
    check_length(ranks.config, key="model.model_config.seq_length")
    quantised = ranks.config.quantization_bit  # the float weights that integers replace take no memory
    with nullcontext() if training and not quantised else unfilled():
        return ranks.network(config.network.arch.type, training=training)


def load_weights(
    model: nn.Cell, config: RunConfig, ranks: Ranks | None = None, *, adapter: str | None = None
) -> str | None:
    """Loads the weights that the configuration names; returns their place, None for random ones on request.

    A network with an adapter accepts a checkpoint without one when it is about to be trained, and when `adapter` names
    the adapter's own. Where `load_checkpoint` is an adapter, `checkpoint_name_or_path` names its base.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit. Random weights never stand in for it.
    """
    name = config.initial_weights
    if name is None:
        logger.info("Weights are random, as allow_random_weights asks.")
        fill(model)
        fill_integers(model, seed=config.seed)
        if ranks is not None:
            ranks.random_weights(model, config.network.arch.type)
        if adapter is not None:
            load_into(model, resolve(adapter).read())
        return None
    ranks = ranks or ranks_of(config, training=config.trains)
    base = ranks.config.checkpoint_name_or_path or None
    parts = parts_of(name, adapter=adapter, base=None if base == name else base)
    place, strategy = parts.base.weights, config.src_strategy_path_or_dir
    new = config.trains or parts.adapter is not None
    count = ranks.load_weights(model, place, strategy=strategy, new_adapter=new)
    logger.info("Loaded %d tensors from %s", count, place)
    if parts.adapter is not None:
        count = ranks.load_weights(model, parts.adapter.weights, strategy=strategy, new_adapter=False)
        logger.info("Loaded %d tensors of the adapter from %s", count, parts.adapter.weights)
    return str(place)
