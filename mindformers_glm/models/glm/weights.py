"""The one table of weight names: ours (MindFormers 1.0), official, MindFormers 1.2, and how tensor parallelism cuts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.gguf_names import from_gguf, gguf_name  # noqa: F401 - columns of this table
from mindformers_glm.models.interface import BlockParts, NetworkParts
from mindformers_glm.ops.quantized import SCALE, layer_bits, packed_columns
from mindformers_glm.ops.rotary_table import rotary_table

Names = Literal["ours", "hf", "mf12"]


class Weight(NamedTuple):
    """One weight, `{}` for the layer number.

    `shard_axis` is what tensor parallelism cuts, None for a weight that every rank holds whole. `parts` gives the
    sizes of blocks joined along axis 0, each of which is cut alone, and `split` the names under which MindFormers
    1.5 and later keep these blocks as weights of their own. `native` is the name in the GlmForCausalLM that
    transformers itself contains, one name or one for each block; empty where that network has no such weight.
    `mcore` is the name in Megatron-core's networks, MindFormers 1.5 to 2.1 among them, `mcore_split` the names that
    MindFormers' files have where they keep the blocks of one apart.
    """

    ours: str
    hf: str
    mf12: str
    shape: Callable[[ChatGLM2Config], tuple[int, ...]]
    shard_axis: int | None = None
    parts: Callable[[ChatGLM2Config], list[int]] | None = None
    split: tuple[str, ...] = ()
    native: tuple[str, ...] = ()
    mcore: str = ""
    mcore_split: tuple[str, ...] = ()
    is_matrix: bool = False  # of a linear layer, and so an integer where the configuration asks for that
    present: Callable[[ChatGLM2Config], bool] = lambda config: True


def qkv_parts(config: ChatGLM2Config) -> list[int]:
    """Rows of query, key, value in the fused projection; one block when heads are interleaved (no groups)."""
    if not config.multi_query_attention:
        return [3 * config.num_attention_heads * config.kv_channels]
    kv = config.num_kv_heads * config.kv_channels
    return [config.num_attention_heads * config.kv_channels, kv, kv]


def gate_up_parts(config: ChatGLM2Config) -> list[int]:
    """Rows of gate and up in the MLP's first projection."""
    return [config.ffn_hidden_size] * 2


def _projection(config: ChatGLM2Config) -> int:
    return config.num_attention_heads * config.kv_channels


def _same(name: str, shape: Callable, shard_axis: int | None = None, **more: Any) -> Weight:
    return Weight(name, name, name, shape, shard_axis, **more)


TABLE, HEAD = "transformer.embedding.embedding_table", "transformer.output_layer.weight"
_LAYER, _NATIVE, _MCORE = "transformer.encoder.layers.{}.", "model.layers.{}.", "decoder.layers.{}."
_QKV = _LAYER + "self_attention.query_key_value"
_DENSE = _LAYER + "self_attention.dense"
_UP, _DOWN = _LAYER + "mlp.dense_h_to_4h", _LAYER + "mlp.dense_4h_to_h"
_QKV_SPLIT = tuple(_LAYER + f"self_attention.{name}" for name in ("wq", "wk", "wv"))
_NATIVE_QKV = tuple(_NATIVE + f"self_attn.{name}_proj" for name in "qkv")
_UP_SPLIT = tuple(_LAYER + f"mlp.{name}" for name in ("dense_left", "dense_right"))
_MCORE_QKV = tuple(_MCORE + f"self_attention.linear_{name}" for name in "qkv")
_MCORE_UP = tuple(_MCORE + f"mlp.{name}" for name in ("gating", "hidden"))


def _with(suffix: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name + suffix for name in names)


def _norm(
    name: str, native: str, mcore: str, present: Callable[[ChatGLM2Config], bool] = lambda c: True
) -> list[Weight]:
    def bias(config: ChatGLM2Config) -> bool:
        return present(config) and not config.rmsnorm

    names: dict[str, Any] = {"native": (native + ".weight",), "mcore": mcore + ".weight"}
    return [
        _same(name + ".weight", lambda c: (c.hidden_size,), present=present, **names),
        _same(name + ".bias", lambda c: (c.hidden_size,), present=bias),
    ]


_WEIGHTS: tuple[Weight, ...] = (
    Weight(
        "transformer.embedding.embedding_table",
        "transformer.embedding.word_embeddings.weight",
        "transformer.embedding.embedding_weight",
        lambda c: (c.padded_vocab_size, c.hidden_size),
        0,
        native=("model.embed_tokens.weight",),
        mcore="embedding.word_embeddings.weight",
    ),
    *_norm(_LAYER + "input_layernorm", _NATIVE + "input_layernorm", _MCORE + "input_layernorm"),
    _same(
        _QKV + ".weight",
        lambda c: (sum(qkv_parts(c)), c.hidden_size),
        0,
        parts=qkv_parts,
        split=_with(".weight", _QKV_SPLIT),
        is_matrix=True,
        native=_with(".weight", _NATIVE_QKV),
        mcore=_MCORE + "self_attention.linear_qkv.weight",
        mcore_split=_with(".weight", _MCORE_QKV),
    ),
    _same(
        _QKV + ".bias",
        lambda c: (sum(qkv_parts(c)),),
        0,
        parts=qkv_parts,
        split=_with(".bias", _QKV_SPLIT),
        native=_with(".bias", _NATIVE_QKV),
        mcore=_MCORE + "self_attention.linear_qkv.bias",
        mcore_split=_with(".bias", _MCORE_QKV),
        present=lambda c: c.add_bias_linear or c.add_qkv_bias,
    ),
    _same(
        _DENSE + ".weight",
        lambda c: (c.hidden_size, _projection(c)),
        1,
        native=(_NATIVE + "self_attn.o_proj.weight",),
        mcore=_MCORE + "self_attention.linear_proj.weight",
        is_matrix=True,
    ),
    _same(_DENSE + ".bias", lambda c: (c.hidden_size,), present=lambda c: c.add_bias_linear),
    *_norm(
        _LAYER + "post_self_attn_layernorm",
        _NATIVE + "post_self_attn_layernorm",
        _MCORE + "post_self_attn_layernorm",
        lambda c: c.post_self_attn_layernorm,
    ),
    *_norm(_LAYER + "post_attention_layernorm", _NATIVE + "post_attention_layernorm", _MCORE + "pre_mlp_layernorm"),
    _same(
        _UP + ".weight",
        lambda c: (sum(gate_up_parts(c)), c.hidden_size),
        0,
        parts=gate_up_parts,
        split=_with(".weight", _UP_SPLIT),
        is_matrix=True,
        native=(_NATIVE + "mlp.gate_up_proj.weight",),
        mcore=_MCORE + "mlp.linear_fc1.weight",
        mcore_split=_with(".weight", _MCORE_UP),
    ),
    _same(
        _UP + ".bias",
        lambda c: (sum(gate_up_parts(c)),),
        0,
        parts=gate_up_parts,
        split=_with(".bias", _UP_SPLIT),
        present=lambda c: c.add_bias_linear,
    ),
    _same(
        _DOWN + ".weight",
        lambda c: (c.hidden_size, c.ffn_hidden_size),
        1,
        native=(_NATIVE + "mlp.down_proj.weight",),
        mcore=_MCORE + "mlp.linear_fc2.weight",
        is_matrix=True,
    ),
    _same(_DOWN + ".bias", lambda c: (c.hidden_size,), present=lambda c: c.add_bias_linear),
    *_norm(
        _LAYER + "post_mlp_layernorm",
        _NATIVE + "post_mlp_layernorm",
        _MCORE + "post_mlp_layernorm",
        lambda c: c.post_mlp_layernorm,
    ),
    *_norm(
        "transformer.encoder.final_layernorm",
        "model.norm",
        "decoder.final_layernorm",
        lambda c: c.post_layer_norm,
    ),
    _same(
        "transformer.output_layer.weight",
        lambda c: (c.padded_vocab_size, c.hidden_size),
        0,
        native=("lm_head.weight",),
        mcore="output_layer.weight",
        is_matrix=True,
        present=lambda c: not c.tie_word_embeddings or bits_of(HEAD, c) > 0,
    ),
)


def bits_of(name: str, config: ChatGLM2Config) -> int:
    """Bits of the numbers of a matrix; 0: floats."""
    if name == TABLE:
        return 0 if config.tie_word_embeddings else config.quantization_embedding_bits
    return layer_bits(config.quantization_bit, is_head=name == HEAD, head_bits=config.quantization_head_bits)


def _quantized(row: Weight) -> list[Weight]:
    """A row whose shape follows `quantization_bit`, and the row of its scales."""
    if not (row.is_matrix or row.ours == TABLE):
        return [row]

    def shape(config: ChatGLM2Config) -> tuple[int, ...]:
        rows, columns = row.shape(config)
        bits = bits_of(row.ours, config)
        return (rows, packed_columns(columns, bits) if bits else columns)

    def scale_shape(config: ChatGLM2Config) -> tuple[int, ...]:
        rows, columns = row.shape(config)
        return (rows, columns // (config.quantization_group_size or columns))

    def has_scale(config: ChatGLM2Config) -> bool:
        return row.present(config) and bits_of(row.ours, config) > 0

    return [row._replace(shape=shape), _same(row.ours + SCALE, scale_shape, present=has_scale)]


WEIGHTS = tuple(made for row in _WEIGHTS for made in _quantized(row))
_ROWS = {names: {getattr(row, names): row for row in WEIGHTS} for names in ("ours", "hf", "mf12")}
_ADAPTED = re.compile(r"\.mindpet_delta_lora_[ab]$")
_NUMBER = re.compile(r"\.layers\.(\d+)\.")


def is_ignored(name: str) -> bool:
    """True for entries of real checkpoints that the network computes itself: the rotary frequencies."""
    return name.endswith("rotary_pos_emb.inv_freq")


def megatron_name(name: str, layer: int | None = None) -> str:
    """The name of a weight in Megatron-core's GLM, with `layer` in the place of its own number where it is given.

    Raises:
        CheckpointError: Megatron's network has no such weight.
    """
    row, number = weight(name), _NUMBER.search(name)
    if row is None or not row.mcore:
        raise CheckpointError(name, "Megatron's GLM has no such weight", "Convert to another form.")
    return row.mcore.format(*() if number is None else (number.group(1) if layer is None else layer,))


def joins(name: str) -> str | None:
    """What a weight, its bias or its LoRA joins: "qkv" (query, key, value), "mlp" (gate and up), None for others."""
    row = weight(_ADAPTED.sub(".weight", name))
    if row is None or row.parts is None:
        return None
    return "qkv" if row.parts is qkv_parts else "mlp"


def is_tied(name: str, config: ChatGLM2Config) -> bool:
    """True for the output layer of a network whose output layer is the table of token vectors; files may hold both."""
    return config.tie_word_embeddings and name == HEAD


def tied(config: ChatGLM2Config) -> dict[str, str]:
    """The output layer -> the table of token vectors, where they are one."""
    return {HEAD: TABLE} if config.tie_word_embeddings else {}


def weight(name: str, names: Names = "ours") -> Weight | None:
    """The row of the table that a name with its layer number belongs to; None for another."""
    return _ROWS[names].get(_NUMBER.sub(".layers.{}.", name, count=1))


def rename(name: str, source: Names, target: Names) -> str:
    """The same weight's name in another column of the table.

    Raises:
        CheckpointError: the table has no such weight.
    """
    row = weight(name, source)
    if row is None:
        raise CheckpointError(
            name, f"no weight of ChatGLM2/3 has this name (looked up as {source!r})", "Is it another model's file?"
        )
    number = _NUMBER.search(name)
    return getattr(row, target).format(*number.groups() if number else ())


def expected_shapes(config: ChatGLM2Config) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of every weight that a network of this configuration has, without adapters."""
    shapes = {}
    for row in WEIGHTS:
        if row.present(config):
            layers = range(config.num_layers) if "{}" in row.ours else (0,)
            shapes.update({row.ours.format(layer): row.shape(config) for layer in layers})
    return shapes


def expected_types(config: ChatGLM2Config) -> dict[str, str]:
    """Our name -> type of the same weights: of integers int8, or uint8 for 4 bits, and float16 of their scales."""
    return {name: _type_of(name, config) for name in expected_shapes(config)}


def _type_of(name: str, config: ChatGLM2Config) -> str:
    if name.endswith(SCALE):
        return "float16"
    row = weight(name)
    if row is not None and (row.is_matrix or name == TABLE):
        bits = bits_of(row.ours, config)
        if bits:
            return "int8" if bits == 8 else "uint8"
        return config.embedding_type if name == TABLE else config.param_init_type
    return config.layernorm_compute_type if "layernorm" in name else config.param_init_type


def parts(config: ChatGLM2Config) -> NetworkParts:
    """The paths of the network's parts, where NetworkParts speaks of Cells."""

    def block(number: int) -> BlockParts:
        layer = _LAYER.format(number)
        has_more = config.post_self_attn_layernorm
        return BlockParts(
            attention_norm=layer + "input_layernorm",
            attention=layer + "self_attention",
            qkv=_QKV.format(number),
            out=_DENSE.format(number),
            after_attention=layer + "post_self_attn_layernorm" if has_more else None,
            mlp_norm=layer + "post_attention_layernorm",
            mlp=layer + "mlp",
            gate_up=_UP.format(number),
            down=_DOWN.format(number),
            after_mlp=layer + "post_mlp_layernorm" if has_more else None,
        )

    return NetworkParts(
        table=TABLE,
        rotary=None,
        blocks=tuple(map(block, range(config.num_layers))),
        final_norm="transformer.encoder.final_layernorm" if config.post_layer_norm else None,
        head=HEAD.removesuffix(".weight"),
    )


def rotary(config: ChatGLM2Config) -> np.ndarray:
    """The table of positions (seq_length, 2, kv_channels) of the network."""
    return rotary_table(
        length=config.seq_length,
        channels=config.kv_channels,
        ratio=config.rope_ratio,
        method=config.rope_method,
        rotated=config.rotary_dim,
        yarn=None if config.rope_scaling is None else config.rope_scaling.yarn,
    )
