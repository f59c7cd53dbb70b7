"""A model to talk to, from a name, a folder or a YAML file: engine and tokenizer, with an adapter on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.auto import AutoModel, AutoTokenizer
from mindformers_glm.checkpoint.job import open_checkpoint
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.resolve import resolve
from mindformers_glm.config import RunConfig, load_config
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import engine_of
from mindformers_glm.tokenizers.chatglm import GLMTokenizer, check_fits
from mindformers_glm.train.assemble import build_network, build_tokenizer, load_weights

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
    pet_config = None if adapter is None else _adapter_settings(adapter, lora_alpha)
    if Path(model).suffix in _YAML:
        network, own = _from_yaml(model, adapter, pet_config, seq_length, device_target)
    else:
        runtime.set_up({"device_target": device_target or "CPU"})
        changes: dict[str, Any] = {} if pet_config is None else {"pet_config": pet_config}
        if seq_length is not None:
            changes["seq_length"] = seq_length
        network, own = AutoModel.from_pretrained(model, adapter=adapter, **changes), None
    if tokenizer is not None or own is None:
        own = AutoTokenizer.from_pretrained(tokenizer or _home(model))
    check_fits(own, network.config.padded_vocab_size)
    return Loaded(engine_of(network), own)


def _from_yaml(
    file: str, adapter: str | None, pet_config: dict[str, Any] | None, seq_length: int | None, target: str | None
) -> tuple[nn.Cell, GLMTokenizer]:
    config = load_config(file, ["run_mode=predict"])
    changes: dict[str, Any] = {}
    if pet_config is not None:
        changes["pet_config"] = pet_config
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
    if adapter is None:
        load_weights(network, config)
    else:
        _load_both(network, config, adapter)
    return network, tokenizer


def _load_both(network: nn.Cell, config: RunConfig, adapter: str) -> None:
    name = config.initial_weights
    if name is not None:
        load_into(network, resolve(name).read(), new_adapter=True)
    load_into(network, resolve(adapter).read())


def _adapter_settings(adapter: str, lora_alpha: float | None) -> dict[str, Any]:
    """The `pet_config` of an adapter.

    Raises:
        CheckpointError: it is no adapter, or no file tells its alpha.
    """
    opened = open_checkpoint(adapter, lora_alpha=lora_alpha)
    if opened.pet_config is None:
        fix = "Give --lora_alpha as the adapter was trained with, or a PEFT folder, or merge it first."
        raise CheckpointError(str(adapter), "no file tells the alpha of a LoRA here", fix)
    return dict(opened.pet_config)


def _home(model: str) -> str:
    """Where the tokenizer of a model lies: a weight file's folder, otherwise the name or folder itself."""
    path = Path(model).expanduser()
    if not path.is_file():
        return model
    if not (path.parent / "tokenizer.model").is_file():
        raise ConfigError("--tokenizer", None, f"No tokenizer.model lies beside {path.name}: name one.")
    return str(path.parent)
