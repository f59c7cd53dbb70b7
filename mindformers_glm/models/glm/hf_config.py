"""`config.json` of the official models, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config

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
_FIXED = {"original_rope": True, "tie_word_embeddings": False, "interleaved_qkv": False, "rotary_percent": 0.5}
_INTERPOLATING, _REBASING = ("chatglm2", "glm2"), ("chatglm3", "glm3", "glm-4", "glm4")


def from_hf(given: Mapping[str, Any], **overrides: Any) -> ChatGLM2Config:
    """The configuration that an official `config.json` states; keys that do not shape the network are passed over.

    With a `rope_ratio` the file does not say whether it divides positions (ChatGLM2-32k) or multiplies the base
    (ChatGLM3-32k, GLM-4): the official code differs. `_name_or_path` tells, or `rope_method` in `overrides`.

    Raises:
        ConfigError: another architecture, or a `rope_ratio` whose meaning cannot be told.
    """
    if given.get("model_type", "chatglm") != "chatglm" or "position_encoding_2d" in given:
        raise ConfigError("model_type", given.get("model_type"), "Only ChatGLM2, ChatGLM3 and GLM-4 have this network.")
    for key, works in _FIXED.items():
        if given.get(key, works) != works:
            raise ConfigError(key, given[key], f"Only {works} is implemented.")
    if given.get("quantization_bit"):
        fix = "Official integer files are packed in a way of their own: take the float weights, and quantise on load."
        raise ConfigError("quantization_bit", given["quantization_bit"], fix)
    values = {key: given[key] for key in _SHAPE if given.get(key) is not None}
    values["checkpoint_name_or_path"] = given.get("_name_or_path")
    dtype = given.get("torch_dtype", given.get("dtype", "float16"))
    values.update(param_init_type=dtype, compute_dtype=dtype)
    values.update(overrides)
    if values.get("rope_ratio", 1) != 1 and "rope_method" not in values:
        values["rope_method"] = _rope_method(str(given.get("_name_or_path", "")), values["rope_ratio"])
    return ChatGLM2Config(**values)


def to_hf(config: ChatGLM2Config) -> dict[str, Any]:
    """The content of a `config.json` that the official code and `from_hf` read.

    `rope_method` is written beside `rope_ratio` although the official code has it by version, not by key.
    """
    values = {key: getattr(config, key) for key in _SHAPE}
    if not config.pre_seq_len:
        values.pop("pre_seq_len")
    if config.rope_ratio == 1:
        values.pop("rope_ratio"), values.pop("rope_method")
    elif float(config.rope_ratio).is_integer():
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


def _rope_method(name: str, ratio: Any) -> str:
    name = name.lower()
    if any(part in name for part in _REBASING):
        return "base"
    if any(part in name for part in _INTERPOLATING):
        return "linear"
    raise ConfigError(
        "rope_ratio",
        ratio,
        "Its meaning depends on the model and _name_or_path does not name one: set rope_method to 'linear' "
        "(ChatGLM2-32k) or 'base' (ChatGLM3-32k, GLM-4).",
    )
