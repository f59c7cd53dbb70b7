"""A model to talk to, from a name, a folder or a YAML file: engine and tokenizer, with an adapter on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.network import read_adapter
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.run import build_network, build_tokenizer, load_weights
from mindformers_glm.auto import AutoModel, AutoTokenizer
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.config import load_config
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import engine_of
from mindformers_glm.models.glm.initial import fill
from mindformers_glm.registry import CONFIGS
from mindformers_glm.tokenizers.chatglm import check_fits
from mindformers_glm.tokenizers.glm import GLMTokenizer

_YAML = (".yaml", ".yml")


class Loaded(NamedTuple):
    """All that a conversation needs."""

    engine: Engine
    tokenizer: GLMTokenizer


def load(
    model: str,
    *,
    adapter: str | None = None,
    lora_alpha: float | None = None,
    tokenizer: str | None = None,
    seq_length: int | None = None,
    device_target: str | None = None,
) -> Loaded:
    """Engine and tokenizer of a registered name, a folder or weight file, or a YAML file, on one device.

    `adapter` is a PEFT folder or a checkpoint with LoRA, whose alpha must be given where no file tells it.
    `device_target` None is that of the YAML file, or the processor. `tokenizer` replaces the model's own.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    if Path(model).suffix in _YAML:
        network, own = _from_yaml(model, adapter, lora_alpha, seq_length, device_target)
    else:
        runtime.set_up({"device_target": device_target or "CPU"})
        changes: dict[str, Any] = {} if seq_length is None else {"seq_length": seq_length}
        network, own = AutoModel.from_pretrained(model, adapter=adapter, lora_alpha=lora_alpha, **changes), None
    if tokenizer is not None or own is None:
        own = AutoTokenizer.from_pretrained(tokenizer or _tokenizer_home(model))
    check_fits(own, network.config.padded_vocab_size)
    return Loaded(engine_of(network), own)


def _tokenizer_home(model: str) -> str:
    """Where the tokenizer of a model lies: with the model, or with the base of an adapter."""
    return str(parts_of(model).base.name)


def _from_yaml(
    file: str, adapter: str | None, lora_alpha: float | None, seq_length: int | None, target: str | None
) -> tuple[nn.Cell, GLMTokenizer]:
    config = load_config(file, ["run_mode=predict"])
    changes: dict[str, Any] = {}
    patch = None
    if adapter is not None:
        base = CONFIGS.build({"type": "ChatGLM2Config", **config.model["model_config"]}, "model.model_config")
        patch, changes["pet_config"] = read_adapter(resolve(adapter), base, lora_alpha)
    if seq_length is not None:
        changes["seq_length"] = seq_length
    config = config.changed(
        {
            "use_parallel": False,
            **({"model": {"model_config": changes}} if changes else {}),
            **({"context": {"device_target": target}} if target else {}),
        }
    )
    runtime.set_up(config.context, seed=config.seed)
    tokenizer = build_tokenizer(config)
    network = build_network(config, training=False).set_train(False)
    if patch is None:
        load_weights(network, config)
    else:
        if config.initial_weights is not None:
            load_into(network, parts_of(config.initial_weights).base.read(), new_adapter=True)
        else:
            fill(network)
        load_into(network, patch)
    return network, tokenizer
