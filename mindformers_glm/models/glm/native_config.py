"""config.json of the networks that transformers itself contains: `glm` (GLM-4 -hf, Edge) and `glm4` (0414, Z1).

The network is the one of `config.py` with its switches; names and rotary keys of transformers 4 and 5 are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.log import log_once
from mindformers_glm.models.glm.config import ChatGLM2Config

TYPES = ("glm", "glm4")
_CLASSES = {"glm": "GlmForCausalLM", "glm4": "Glm4ForCausalLM"}
_WORKS = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
}
_KEYS = {
    "vocab_size": "padded_vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "rms_norm_eps": "layernorm_epsilon",
}
_PLAIN_ROPE = ("default", None)
_LONG_CONTEXT = 131072  # positions of GLM-4-9B-chat


def from_native(given: Mapping[str, Any]) -> ChatGLM2Config:
    """The configuration that a `config.json` of these networks states.

    Raises:
        ConfigError: a key is missing, or asks for another network.
    """
    for key in _KEYS:
        if given.get(key) is None:
            raise ConfigError(key, None, "This key must be given.")
    if given.get("hidden_act", "silu") != "silu":
        raise ConfigError("hidden_act", given["hidden_act"], "Only silu is implemented: use a model with it.")
    theta, partial, scaling = _rope(given)
    heads, norms = given["num_attention_heads"], given["model_type"] == "glm4"
    dtype = given.get("torch_dtype") or given.get("dtype") or "float32"
    config = ChatGLM2Config(
        **{ours: given[theirs] for theirs, ours in _KEYS.items()},
        kv_channels=given.get("head_dim") or given["hidden_size"] // max(heads, 1),
        multi_query_attention=True,
        multi_query_group_num=given.get("num_key_value_heads") or heads,
        seq_length=given.get("max_position_embeddings") or 2048,
        add_qkv_bias=bool(given.get("attention_bias", False)),
        attention_dropout=given.get("attention_dropout") or 0.0,
        rope_ratio=theta / 10000.0,
        rotary_percent=partial,
        rope_scaling=scaling,
        post_self_attn_layernorm=norms,
        post_mlp_layernorm=norms,
        tie_word_embeddings=bool(given.get("tie_word_embeddings", False)),
        eos_token_id=given.get("eos_token_id") or 2,
        pad_token_id=given.get("pad_token_id") or 0,
        checkpoint_name_or_path=given.get("_name_or_path"),
        param_init_type=dtype,
        compute_dtype=dtype,
    )
    if given["model_type"] == "glm" and theta == 10000 and partial == 0.5 and config.seq_length >= _LONG_CONTEXT:
        log_once(
            "config.json says rope_theta 10000, as the published GLM-4-9B-chat-hf does, where the same model in the "
            "chatglm form has rope_ratio 500 (1M: 10000). Weights that come from that form need it: rope_ratio=500."
        )
    return config


def from_file(given: Mapping[str, Any], path: str | Path) -> ChatGLM2Config:
    """The configuration of a `config.json`; errors name the file.

    Raises:
        ConfigError: a key is missing, or asks for another network.
    """
    try:
        return from_native(given)
    except ConfigErrors:
        raise
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.key}", error.got, error.fix) from error


def to_native(config: ChatGLM2Config) -> dict[str, Any]:
    """The `config.json` of GlmForCausalLM, or of Glm4ForCausalLM where the network has its norms.

    Raises:
        ConfigError: a flag that these networks do not have.
    """
    for key, value in _WORKS.items():
        if getattr(config, key) != value:
            raise ConfigError(key, getattr(config, key), "GlmForCausalLM has no such network. Use --to hf.")
    if not config.multi_query_attention:
        fix = "GlmForCausalLM keeps query, key and value one after the other. Use --to hf."
        raise ConfigError("multi_query_attention", False, fix)
    if config.rope_ratio != 1 and config.rope_method != "base":
        raise ConfigError("rope_method", config.rope_method, "GlmForCausalLM can only change the base. Use --to hf.")
    kind = "glm4" if config.post_self_attn_layernorm else "glm"
    values = {
        "model_type": kind,
        "architectures": [_CLASSES[kind]],
        **{theirs: getattr(config, ours) for theirs, ours in _KEYS.items()},
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.kv_channels,
        "partial_rotary_factor": config.rotary_percent,
        "rope_theta": 10000.0 * config.rope_ratio,
        "hidden_act": "silu",
        "attention_bias": config.add_qkv_bias,
        "attention_dropout": config.attention_dropout,
        "max_position_embeddings": config.seq_length,
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": None,
        "use_cache": True,
        "torch_dtype": config.param_init_type,
    }
    if config.rope_scaling is not None:
        values["rope_scaling"] = config.rope_scaling.model_dump(exclude_none=True)
    return values


def _rope(given: Mapping[str, Any]) -> tuple[float, float, dict[str, Any] | None]:
    """The base, the share of a head that turns, and YaRN where the file asks for it."""
    rope = dict(given.get("rope_parameters") or given.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", None) or given.get("rope_theta") or 10000.0
    partial = rope.pop("partial_rotary_factor", None) or given.get("partial_rotary_factor") or 0.5
    kind = rope.pop("rope_type", None) or rope.pop("type", None)
    rope.pop("type", None)
    if kind in _PLAIN_ROPE:
        return theta, partial, None
    if kind != "yarn":
        raise ConfigError("rope_scaling.rope_type", kind, "Only yarn is implemented: use a model with it.")
    kept = {key: rope.pop(key) for key in ("factor", "beta_fast", "beta_slow", "attention_factor") if rope.get(key)}
    original = rope.pop("original_max_position_embeddings", None) or given.get("max_position_embeddings")
    rope = {key: value for key, value in rope.items() if value not in (None, True)}
    if rope:
        key = sorted(rope)[0]
        raise ConfigError(
            f"rope_scaling.{key}", rope[key], "This variant of YaRN is not implemented: use a model without it."
        )
    return theta, partial, {"rope_type": "yarn", "original_max_position_embeddings": original, **kept}
