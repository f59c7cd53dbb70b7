"""`config.json` of the official models, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.recognise import family_named

_SHAPE = [
    "num_layers",
    "padded_vocab_size",
    "hidden_size",
    "ffn_hidden_size",
    "kv_channels",
    "num_attention_heads",
    "seq_length",
    "multi_query_attention",
    "multi_query_group_num",
    "rmsnorm",
    "layernorm_epsilon",
    "post_layer_norm",
    "add_bias_linear",
    "add_qkv_bias",
    "apply_residual_connection_post_layernorm",
    "apply_query_key_layer_scaling",
    "attention_softmax_in_fp32",
    "fp32_residual_connection",
    "bias_dropout_fusion",
    "hidden_dropout",
    "attention_dropout",
    "rope_ratio",
    "rope_method",
    "quantization_bit",
    "pre_seq_len",
    "prefix_projection",
    "eos_token_id",
    "pad_token_id",
]
# What the official code could be told and this network is not: key -> the one value that fits.
_FIXED: dict[str, Any] = {
    "original_rope": True,
    "tie_word_embeddings": False,
    "interleaved_qkv": False,
    "rotary_percent": 0.5,
}
_FIXED |= {"post_self_attn_layernorm": False, "post_mlp_layernorm": False}
_FIXED |= {"partial_rotary_factor": 0.5, "hidden_act": "silu"}
# Names that transformers gives to the same things; a `chatglm` file may have them instead of its own.
_STYLED = {
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "vocab_size": "padded_vocab_size",
    "num_key_value_heads": "multi_query_group_num",
    "head_dim": "kv_channels",
    "max_position_embeddings": "seq_length",
    "rms_norm_eps": "layernorm_epsilon",
    "attention_bias": "add_qkv_bias",
}
_LOOSE = ("vocab_size", "max_position_embeddings")  # may differ from ours where both stand: smaller, or another limit
_STATED = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "padded_vocab_size")
_OTHERS = {
    "rotary_percent": 0.5,
    "post_self_attn_layernorm": False,
    "tie_word_embeddings": False,
    "rope_scaling": None,
}
# what the official code of a family does with rope_ratio
_METHODS = {"chatglm2": "linear", "codegeex2": "linear", "chatglm3": "base", "glm4": "base", "glm4_0414": "base"}


def from_hf(given: Mapping[str, Any], *, ask_later: bool = False, **overrides: Any) -> ChatGLM2Config:
    """The configuration that an official `config.json` states; keys that do not shape the network are ignored.

    Sizes may have the official names or those of transformers (`num_hidden_layers`, `intermediate_size`, ...).

    With a `rope_ratio` the file does not say whether it divides positions (ChatGLM2-32k) or multiplies the base
    (ChatGLM3-32k, GLM-4): the official code differs. The last part of `_name_or_path` tells, or `rope_method` in
    `overrides`; with `ask_later` the question stays open (rope_method "unknown") until a network is built.

    Raises:
        ConfigError: another architecture, or a `rope_ratio` whose meaning cannot be told.
    """
    if given.get("model_type", "chatglm") != "chatglm" or "position_encoding_2d" in given:
        fix = "Use ChatGLM2, ChatGLM3 or GLM-4: only they have this network."
        raise ConfigError("model_type", given.get("model_type"), fix)
    for key, works in _FIXED.items():
        if given.get(key, works) != works:
            raise ConfigError(key, given[key], f"Only {works} is implemented: use a model with it.")
    if given.get("quantization_bit"):
        fix = "Official integer files are packed in a way of their own: take the float weights, and quantise on load."
        raise ConfigError("quantization_bit", given["quantization_bit"], fix)
    given = _by_own_names(given)
    values = {key: given[key] for key in _SHAPE if given.get(key) is not None}
    values["checkpoint_name_or_path"] = given.get("_name_or_path")
    dtype = given.get("torch_dtype", given.get("dtype", "float16"))
    values.update(param_init_type=dtype, compute_dtype=dtype)
    values.update(overrides)
    if values.get("rope_ratio", 1) != 1 and "rope_method" not in values:
        family = family_named(given.get("_name_or_path"))
        values["rope_method"] = "unknown" if family is None else _METHODS.get(family.name, "unknown")
    config = ChatGLM2Config(**values)
    return config if ask_later else config.settled()


def from_file(given: Mapping[str, Any], path: str | Path) -> ChatGLM2Config:
    """The configuration of a `config.json`; the meaning of its `rope_ratio` may still have to be told.

    Raises:
        ConfigError: another architecture, or a file that does not state the network's shape.
    """
    config = from_hf(given, ask_later=True)
    missing = [key for key in _STATED if _by_own_names(given).get(key) is None]
    if missing:
        fix = "The file does not state it, and no other network stands in. Take the model's own config.json."
        raise ConfigError(f"{path}: {missing[0]}", None, fix)
    return config


def _by_own_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """The file with transformers' names replaced by the official ones.

    Raises:
        ConfigError: the two names of one thing say different things.
    """
    values = dict(given)
    for styled, own in _STYLED.items():
        told = values.pop(styled, None)
        if told is None:
            continue
        if values.get(own) is None:
            values[own] = told
        elif values[own] != told and styled not in _LOOSE:
            raise ConfigError(styled, told, f"{own} in the same file is {values[own]}. Remove the wrong one.")
    theta = values.get("rope_theta")
    if theta is not None and theta != 10000:
        if values.get("rope_ratio", 1) != 1:
            raise ConfigError("rope_theta", theta, "rope_ratio in the same file says the same thing. Remove one.")
        values |= {"rope_ratio": theta / 10000, "rope_method": "base"}
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if values.get("kv_channels") is None and isinstance(width, int) and isinstance(heads, int) and heads > 0:
        values["kv_channels"] = width // heads
    return values


def to_hf(config: ChatGLM2Config) -> dict[str, Any]:
    """The content of a `config.json` that the official code and `from_hf` read.

    `rope_method` is written beside `rope_ratio` although the official code has it by version, not by key.
    """
    for key, plain in _OTHERS.items():
        if getattr(config, key) != plain:
            raise ConfigError(key, getattr(config, key), "The chatglm form has no such network. Use --to transformers.")
    values = {key: getattr(config, key) for key in _SHAPE}
    if not config.pre_seq_len:
        values.pop("pre_seq_len")
    if config.rope_ratio == 1:
        values.pop("rope_ratio"), values.pop("rope_method")
    elif config.rope_method == "unknown":
        values.pop("rope_method")
    if "rope_ratio" in values and float(config.rope_ratio).is_integer():
        values["rope_ratio"] = int(config.rope_ratio)
    return {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        **values,
        "original_rope": True,
        "tie_word_embeddings": False,
        "torch_dtype": config.param_init_type,
        "use_cache": True,
    }
