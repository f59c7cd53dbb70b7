"""The network of a run's configuration without MindSpore, for inference on a CPU."""

from __future__ import annotations

from mindformers_glm import runtime
from mindformers_glm.assembly.held import HeldNetwork
from mindformers_glm.assembly.held_files import NeedsMindSpore, filled, is_divided, obstacles
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.config import RunConfig
from mindformers_glm.log import logger
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.ops.kernels import library


def held_of_run(config: RunConfig, *, adapter: str | None = None) -> HeldNetwork:
    """The network of `config.model` with the weights that the configuration names, and an adapter on request.

    Raises:
        NeedsMindSpore: the kernels alone cannot compute it, or its weights are random.
        ConfigError, CheckpointError: its weights are not there, or do not fit.
    """
    if reasons := reasons_of(config):
        raise NeedsMindSpore(*reasons)
    network = config.network.config.build()
    name, base = config.initial_weights, network.checkpoint_name_or_path or None
    assert name is not None
    parts = parts_of(name, adapter=adapter, base=None if base == name else base)
    if is_divided(parts.base.weights):
        raise NeedsMindSpore("its weights are divided among ranks")
    held = filled(parts, network, None if parts.adapter is None else parts.adapter.read())
    logger.info("Loaded %d tensors from %s", len(held.slots), parts.base.weights)
    return held


def reasons_of(config: RunConfig) -> list[str]:
    """Why the kernels alone cannot compute the model of a run; empty where they can."""
    if config.context.device_target != "CPU":
        return [f"device_target is {config.context.device_target}"]
    if config.use_parallel or runtime.rank_size() > 1:
        return ["several processes share the work"]
    if library.library() is None:
        return ["there are no kernels for this device"]
    if config.initial_weights is None:
        return ["its weights are random"]
    if config.src_strategy_path_or_dir:
        return ["its weights are divided among ranks"]
    network = config.network.config.build()
    own, arch = FAMILIES.of(network).network.rpartition(":")[2], config.network.arch.type
    return obstacles(network) if arch in (own, *_OTHER_NAMES) else [f"the network is a {arch}"]


_OTHER_NAMES = ("ChatGLM2WithPtuning2",)  # MindFormers' name of the same network with a prefix
