"""A network with its weights and its tokenizer, from a name, folder, file, run or YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.configuration import read_adapter
from mindformers_glm.assembly.network import load_network
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.run import build_network, build_tokenizer, load_weights
from mindformers_glm.assembly.tokenizer import load_tokenizer
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.config import load_config
from mindformers_glm.errors import ConfigError
from mindformers_glm.parallel.mesh import SINGLE, Mesh, make_mesh
from mindformers_glm.tokenizers.chatglm import check_fits
from mindformers_glm.tokenizers.glm import GLMTokenizer

_YAML = (".yaml", ".yml")


class Model(NamedTuple):
    """All that generating text needs."""

    network: nn.Cell
    tokenizer: GLMTokenizer


def load_model(
    model: str,
    *,
    adapter: str | None = None,
    lora_alpha: float | None = None,
    tokenizer: str | None = None,
    device_target: str | None = None,
    tp_size: int = 1,
    **changes: Any,
) -> Model:
    """Network and tokenizer of a registered name, hub id, folder, weight file, run or YAML file, on one device.

    `adapter` is a LoRA or prefix in any form; the alpha of a LoRA is `lora_alpha` where no file tells it.
    `device_target` None is that of the YAML file, or the CPU. `tokenizer` replaces the model's own; `changes` are keys
    of the network's configuration, such as seq_length. With `tp_size` above 1 this process is one of so many that a
    launcher started, and gets its part of the network; rank 0 generates, and `generation.led.follow` helps it.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    mesh = tensor_ranks(tp_size)
    if Path(model).suffix in _YAML:
        network, own = _from_yaml(model, adapter, lora_alpha, device_target, changes, mesh)
    else:
        runtime.set_up({"device_target": device_target or "CPU"}, use_parallel=mesh.size > 1)
        network, own = load_network(model, adapter=adapter, lora_alpha=lora_alpha, mesh=mesh, **changes), None
    network.led_over = mesh.tensor if mesh.size > 1 else None
    if tokenizer is not None or own is None:
        own = load_tokenizer(tokenizer or parts_of(model).base.name)
    check_fits(own, network.config.padded_vocab_size)
    return Model(network, own)


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


def _from_yaml(
    file: str, adapter: str | None, lora_alpha: float | None, target: str | None, changes: dict[str, Any], mesh: Mesh
) -> tuple[nn.Cell, GLMTokenizer]:
    config = load_config(file, ["run_mode=predict"])
    if adapter is not None:
        _, pet_config = read_adapter(resolve(adapter), config.network.config.build(), lora_alpha)
        changes = {"pet_config": pet_config, **changes}
    config = config.changed(
        {
            "use_parallel": mesh.size > 1,
            "parallel": {"parallel_mode": 1},
            "parallel_config": {"data_parallel": 1, "model_parallel": mesh.size, "pipeline_stage": 1},
            **({"model": {"model_config": changes}} if changes else {}),
            **({"context": {"device_target": target}} if target else {}),
        }
    )
    runtime.set_up(config.context, seed=config.seed, use_parallel=mesh.size > 1)
    tokenizer = build_tokenizer(config)
    network = build_network(config, training=False).set_train(False)
    load_weights(network, config, adapter=adapter)
    return network, tokenizer
