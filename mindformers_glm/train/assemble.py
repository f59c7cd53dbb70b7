"""From a checked configuration to its network with weights, its tokenizer and its datasets."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.resolve import resolve_weights
from mindformers_glm.checkpoint.source import read_weights
from mindformers_glm.config import RunConfig
from mindformers_glm.data.build import build_dataset
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once, logger
from mindformers_glm.models.glm.config import RecomputeConfig
from mindformers_glm.models.glm.model import build_model
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers.chatglm import GLMTokenizer, check_fits

_SLOW_ON_CPU = (
    "compute_dtype float16 is converted to float32 and back on every operation of this processor: "
    "--model.model_config.compute_dtype float32 --model.model_config.param_init_type float32 is about ten times faster."
)


def build_network(config: RunConfig, *, training: bool) -> nn.Cell:
    """The network of `config.model`, without weights; recomputation is set up for training only.

    Raises:
        ConfigError: a value of the section is wrong, or the device cannot compute in its types.
    """
    shape = dict(config.model["model_config"])
    if training:
        known = RecomputeConfig.model_fields
        shape["recompute_config"] = {name: v for name, v in config.recompute_config.items() if name in known}
    if runtime.device_target() == "CPU" and shape.get("compute_dtype", "float16") == "float16":
        log_once(_SLOW_ON_CPU)
    model = build_model({"model_config": shape, "arch": config.model["arch"]})
    model.set_train(training)
    return model


def load_weights(model: nn.Cell, config: RunConfig) -> str | None:
    """Loads the weights that the configuration names; returns their place, None for random ones on request.

    A network with an adapter accepts a checkpoint without one when it is about to be trained.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit. Random weights never stand in for it.
    """
    name = config.initial_weights
    if name is None:
        logger.info("Weights are random, as allow_random_weights asks.")
        return None
    place = resolve_weights(name)
    training = config.run_mode in ("train", "finetune")
    report = load_into(model, read_weights(place), new_adapter=training)
    logger.info("Loaded %d tensors from %s", len(report.loaded), place)
    return str(place)


def build_tokenizer(config: RunConfig) -> GLMTokenizer:
    """The tokenizer of `processor`, or of the first dataset that names one; it fits the network's vocabulary.

    Raises:
        ConfigError: none is configured, its file is missing, or it has more ids than the network.
    """
    for key in ("processor", "eval_dataset", "train_dataset"):
        section = config[key]
        if section and section.get("tokenizer"):
            return tokenizer_of(section["tokenizer"], config, key)
    raise ConfigError("processor.tokenizer", None, "Name a tokenizer: type and vocab_file.")


def tokenizer_of(spec: dict[str, Any], config: RunConfig, key: str) -> GLMTokenizer:
    """The tokenizer that a `tokenizer` section describes, checked against the network's vocabulary."""
    tokenizer = TOKENIZERS.build(spec, f"{key}.tokenizer")
    check_fits(tokenizer, config.model["model_config"].get("padded_vocab_size", 65024))
    return tokenizer


def build_data(config: RunConfig, phase: str) -> TokenDataset:
    """The dataset of `train_dataset` (phase "train") or `eval_dataset` (phase "eval"), with its tokenizer checked.

    Raises:
        ConfigError, DataError: a key is wrong, or the file is missing, empty or holds no usable line.
    """
    key = f"{phase}_dataset"
    section = config[key]
    tokenizer = tokenizer_of(section["tokenizer"], config, key) if section.get("tokenizer") else None
    return build_dataset(
        section,
        task=config[f"{key}_task"],
        seed=config.seed,
        rank=runtime.rank() if config.use_parallel else 0,
        rank_size=runtime.rank_size() if config.use_parallel else 1,
        batch_size=config.runner_config.batch_size,
        phase=phase,
        tokenizer=tokenizer,
    )
