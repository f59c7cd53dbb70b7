"""What lies beside weights: the network's configuration in any of its forms, and the tokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mindformers_glm.checkpoint.load.names import Layout
from mindformers_glm.checkpoint.load.run_folder import places_of, run_config
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import read_json
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.hf_config import from_file, to_hf
from mindformers_glm.registry import CONFIGS
from mindformers_glm.tokenizers import files as tokenizer_files
from mindformers_glm.tokenizers.chatglm import UNUSED_IDS

CONFIG_YAML, CONFIG_JSON, ADAPTER_JSON = "config.yaml", "config.json", "adapter_config.json"
_TOKENIZER_FILES = (tokenizer_files.VOCABULARY, tokenizer_files.SETTINGS)
_NATIVE_TYPES = ("glm", "glm4")


class Storage(NamedTuple):
    """How MindFormers 1.5 and later were told to keep the weights (keys of model_config)."""

    qkv_concat: bool = True
    mlp_concat: bool = True
    use_rearrange_rope: bool = False


class ModelFiles(NamedTuple):
    """The files of one model beside its weights; None where there is none."""

    config: ChatGLM2Config | None
    storage: Storage
    config_path: Path | None
    tokenizer: Path | None


def model_files(path: str | Path) -> ModelFiles:
    """What is beside a weights file, or in a folder of weights.

    Raises:
        ConfigError: a configuration is there and describes another network.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    config_path = _config_path(Path(path), folder)
    config, storage = read_config(config_path) if config_path else (None, Storage())
    places = [folder, *places_of(Path(path))]
    tokenizer = next((place for place in places if (place / tokenizer_files.VOCABULARY).is_file()), None)
    return ModelFiles(config, storage, config_path, tokenizer)


def read_config(path: str | Path) -> tuple[ChatGLM2Config, Storage]:
    """The network that a config.json, a run's YAML or a saved model's YAML describes, and how it stored its weights.

    Raises:
        ConfigError: unreadable, or not a ChatGLM2/3 configuration.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _read_json(path), Storage()
    values = read_yaml(path)
    section = values.get("model", values)
    section = dict(section.get("model_config", section) if isinstance(section, Mapping) else {})
    flags = {key: bool(section.pop(key)) for key in Storage._fields if key in section}
    section.setdefault("type", "ChatGLM2Config")
    return CONFIGS.build(section, "model.model_config"), Storage(**flags)


def config_file(config: ChatGLM2Config, form: str, layout: Layout) -> tuple[str, str]:
    """Name and text of the configuration as the readers of a form want it.

    `mf10`: config.yaml with model.arch and model.model_config, and how `layout` keeps the weights; `hf`: the official
    config.json; `native`: the config.json of transformers' GlmForCausalLM.
    """
    if form == "mf10":
        values = to_yaml(config)
        flags = {
            "qkv_concat": not layout.split_qkv,
            "mlp_concat": not layout.split_mlp,
            "use_rearrange_rope": layout.rearranged,
        }
        defaults = Storage()._asdict()
        values["model"]["model_config"].update({k: v for k, v in flags.items() if v != defaults[k]})
        return CONFIG_YAML, yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return CONFIG_JSON, json.dumps(to_hf(config) if form == "hf" else to_native(config), indent=2) + "\n"


def to_yaml(config: ChatGLM2Config) -> dict[str, Any]:
    """The `model` section of a YAML: every key whose value is not the default."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    for key in ("checkpoint_name_or_path", "parallel_config", "batch_size", "use_past"):
        values.pop(key, None)
    shape = ("num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "num_attention_heads")
    types = ("seq_length", "param_init_type", "compute_dtype", "layernorm_compute_type")
    stated = {key: getattr(config, key) for key in (*shape, *types)}
    return {
        "model": {
            "model_config": {"type": "ChatGLM2Config", **stated, **values},
            "arch": {"type": "ChatGLM2ForConditionalGeneration"},
        }
    }


def to_native(config: ChatGLM2Config) -> dict[str, Any]:
    """The config.json of GlmForCausalLM, the network inside transformers that needs no remote code.

    Raises:
        ConfigError: a flag that network does not have.
    """
    works = {
        "rmsnorm": True,
        "post_layer_norm": True,
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "multi_query_attention": True,
        "apply_residual_connection_post_layernorm": False,
    }
    for key, value in works.items():
        if getattr(config, key) != value:
            raise ConfigError(key, getattr(config, key), "GlmForCausalLM has no such network. Use --to hf.")
    if config.rope_ratio != 1 and config.rope_method != "base":
        raise ConfigError("rope_method", config.rope_method, "GlmForCausalLM can only change the base. Use --to hf.")
    return {
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.multi_query_group_num,
        "head_dim": config.kv_channels,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0 * config.rope_ratio,
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": config.attention_dropout,
        "rms_norm_eps": config.layernorm_epsilon,
        "max_position_embeddings": config.seq_length,
        "tie_word_embeddings": False,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": None,
        "use_cache": True,
        "torch_dtype": config.param_init_type,
    }


def from_native(given: Mapping[str, Any]) -> ChatGLM2Config:
    """The inverse of `to_native`."""
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    theta = given.get("rope_theta") or rope.get("rope_theta", 10000.0)
    partial = given.get("partial_rotary_factor") or rope.get("partial_rotary_factor", 0.5)
    if partial != 0.5 or given.get("tie_word_embeddings"):
        raise ConfigError("config.json", partial, "Only GLM with half rotary heads and untied embeddings is read.")
    dtype = given.get("torch_dtype") or given.get("dtype") or "float32"
    return ChatGLM2Config(
        num_layers=given["num_hidden_layers"],
        padded_vocab_size=given["vocab_size"],
        hidden_size=given["hidden_size"],
        ffn_hidden_size=given["intermediate_size"],
        kv_channels=given.get("head_dim", 128),
        num_attention_heads=given["num_attention_heads"],
        multi_query_group_num=given["num_key_value_heads"],
        seq_length=given.get("max_position_embeddings", 2048),
        layernorm_epsilon=given["rms_norm_eps"],
        rope_ratio=theta / 10000.0,
        eos_token_id=given.get("eos_token_id", 2),
        pad_token_id=given.get("pad_token_id") or 0,
        param_init_type=dtype,
        compute_dtype=dtype,
    )


def infer_config(source: WeightSource, *, kv_channels: int = 128) -> ChatGLM2Config:
    """The network that the shapes of the weights allow, for conversions that need no more than shapes.

    The channels of one head are not in the shapes: they are `kv_channels`, or a common divisor where that cannot be.

    Raises:
        CheckpointError: not the weights of ChatGLM2/3.
    """
    layer = "transformer.encoder.layers.0."
    try:
        vocab, hidden = source.shape("transformer.embedding.embedding_table")
        rows = source.shape(layer + "self_attention.query_key_value.weight")[0]
        query = source.shape(layer + "self_attention.dense.weight")[1]
        ffn = source.shape(layer + "mlp.dense_4h_to_h.weight")[1]
    except KeyError as error:
        raise CheckpointError(
            str(source.path), f"{error.args[0]} is missing, so the network's shape is not known", "Give --config."
        ) from error
    key = (rows - query) // 2
    channels = kv_channels if query % kv_channels == 0 == key % kv_channels else math.gcd(query, key)
    layers = {name.split(".layers.")[1].split(".")[0] for name in source.names if ".layers." in name}
    return ChatGLM2Config(
        num_layers=len(layers),
        padded_vocab_size=vocab,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        kv_channels=channels,
        num_attention_heads=query // channels,
        multi_query_group_num=key // channels,
    )


def check_tokenizer(vocab_size: int, config: ChatGLM2Config, *, place: str | Path) -> None:
    """Passes when a tokenizer of `vocab_size` ids belongs to a network of this configuration.

    Raises:
        CheckpointError: it has more ids than the network has rows, or far fewer.
    """
    rows = config.padded_vocab_size
    if vocab_size > rows or rows - vocab_size > UNUSED_IDS:
        raise CheckpointError(
            str(place),
            f"the tokenizer has {vocab_size:,} ids and the network {rows:,} rows (padded_vocab_size)",
            "Use the tokenizer that came with these weights.",
        )


def tokenizer_contents(folder: Path) -> dict[str, bytes]:
    """The files of the tokenizer in a folder: name -> content."""
    return {name: (folder / name).read_bytes() for name in _TOKENIZER_FILES if (folder / name).is_file()}


def _config_path(path: Path, folder: Path) -> Path | None:
    candidates = [folder / CONFIG_YAML, folder / CONFIG_JSON]
    if path.is_file():
        candidates = [path.with_suffix(".yaml"), *candidates]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for place in places_of(path):
        for name in (CONFIG_YAML, CONFIG_JSON):
            if (place / name).is_file():
                return place / name
    others = sorted(folder.glob("*.yaml"))
    return others[0] if len(others) == 1 else run_config(path)


def _read_json(path: Path) -> ChatGLM2Config:
    given = read_json(path)
    if not isinstance(given, dict):
        raise ConfigError(str(path), given, "Expected a JSON object.")
    if given.get("model_type") in _NATIVE_TYPES:
        try:
            return from_native(given)
        except KeyError as error:
            raise ConfigError(f"{path}: {error.args[0]}", None, "This key must be given.") from error
    return from_file(given, path)
