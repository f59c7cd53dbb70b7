"""A network with its weights and its tokenizer, from a name, folder, file, run or YAML."""

from __future__ import annotations

from typing import Any, NamedTuple

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.network import load_network
from mindformers_glm.assembly.request import ModelRequest
from mindformers_glm.assembly.run import build_network, build_tokenizer, load_weights
from mindformers_glm.errors import ConfigError
from mindformers_glm.parallel.mesh import SINGLE, Mesh, make_mesh
from mindformers_glm.tokenizers.glm import GLMTokenizer


class Model(NamedTuple):
    """All that generating text needs."""

    network: nn.Cell
    tokenizer: GLMTokenizer


def load_model(request: ModelRequest) -> Model:
    """Network and tokenizer of the model that is asked for, on one device.

    Where `tp_size` is above 1, rank 0 generates, and `generation.led.follow` helps it.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    mesh = tensor_ranks(request.tp_size)
    network, of_run = _network(request, mesh)
    network.led_over = mesh.tensor if mesh.size > 1 else None
    return Model(network, request.chosen_tokenizer(of_run, network.config.padded_vocab_size))


def tensor_ranks(tp_size: int) -> Mesh:
    """The grid of a job whose processes all hold parts of one network.

    Raises:
        ConfigError: not so many processes were started.
    """
    if tp_size == 1:
        return SINGLE
    if runtime.rank_size() != tp_size:
        fix = f"{runtime.rank_size()} processes were started: it must be as many."
        raise ConfigError("--tp_size", tp_size, fix)
    runtime.wait_for_ever()
    return make_mesh(runtime.rank(), tp=tp_size)


def _network(request: ModelRequest, mesh: Mesh) -> tuple[nn.Cell, GLMTokenizer | None]:
    """The network with its weights, and the tokenizer of a YAML file."""
    if not request.is_yaml:
        runtime.set_up({"device_target": request.device_target or "CPU"}, use_parallel=mesh.size > 1)
        known: dict[str, Any] = {"adapter": request.adapter, "lora_alpha": request.lora_alpha, "mesh": mesh}
        return load_network(request.model, **known, **request.changes), None
    config = request.run()
    runtime.set_up(config.context, seed=config.seed, use_parallel=mesh.size > 1)
    tokenizer = build_tokenizer(config)
    network = build_network(config, training=False).set_train(False)
    load_weights(network, config, adapter=request.adapter)
    return network, tokenizer
