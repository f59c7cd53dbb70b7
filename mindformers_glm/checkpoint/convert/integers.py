"""Linear weights as integers on the way out: official int4 and int8 folders, and GPTQ's form rounded to nearest.

A packing says which tensors stand for a weight, and makes each from float32 rows. The output layer, the embedding,
norms and biases stay floats, as in the published files of these forms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import is_head, weight
from mindformers_glm.ops.quantized import gptq_integers, gptq_scale, official_integers, official_scale

_GROUPS = (128, 64, 32)


class Part(NamedTuple):
    """One tensor of a packed weight: `suffix` follows the name of the layer; `made` computes it from float32 rows.

    A part that is not made `by_rows` is made of the whole weight at once.
    """

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    made: Callable[[np.ndarray], np.ndarray]
    by_rows: bool = True


class Packing(NamedTuple):
    """`parts` of a weight of a shape; `config` is what config.json says of it, `beside` further files of settings."""

    parts: Callable[[tuple[int, ...]], list[Part]]
    config: dict[str, Any]
    beside: dict[str, dict[str, Any]]


def packing_of(form: str, config: NetworkConfig) -> Packing | None:
    """The packing of a form; None for one that keeps floats.

    Raises:
        ConfigError: sizes that the form cannot hold.
    """
    if form in ("official-int4", "official-int8"):
        bits = int(form[-1])
        stated = {"quantization_bit": bits, "quantization_embeddings": False}
        return Packing(partial(_official, bits), stated, {})
    if form != "gptq":
        return None
    columns = (config.hidden_size, config.num_attention_heads * config.kv_channels, config.ffn_hidden_size)
    group = next((size for size in _GROUPS if not any(count % size for count in columns)), 0)
    if not group:
        raise ConfigError("to", form, f"Columns ({columns}) are no multiples of {_GROUPS[-1]}.")
    settings: dict[str, Any] = {"bits": 4, "group_size": group, "desc_act": False, "sym": True, "lm_head": False}
    settings |= {"quant_method": "gptq", "checkpoint_format": "gptq", "true_sequential": True, "static_groups": False}
    return Packing(partial(_gptq, group), {"quantization_config": settings}, {"quantize_config.json": settings})


def is_block_matrix(name: str) -> bool:
    """True for the weights that packings hold as integers: matrices of the blocks."""
    row = weight(name)
    return row is not None and row.is_matrix and not is_head(name) and name.endswith(".weight")


def _official(bits: int, shape: tuple[int, ...]) -> list[Part]:
    rows, columns = shape
    if bits == 4 and columns % 2:
        raise ConfigError("to", "official-int4", f"A weight has {columns} columns, and two share a byte.")
    packed = (rows, columns * bits // 8)
    return [
        Part(".weight", "int8", packed, partial(_official_bytes, bits)),
        Part(".weight_scale", "float16", (rows,), lambda values: official_scale(values.astype(np.float16), bits)),
    ]


def _official_bytes(bits: int, values: np.ndarray) -> np.ndarray:
    whole = official_integers(values.astype(np.float16), bits)
    return whole if bits == 8 else np.left_shift(whole[:, ::2], 4) | (whole[:, 1::2] & np.int8(15))


def _gptq(group: int, shape: tuple[int, ...]) -> list[Part]:
    rows, columns = shape
    if rows % 8:
        raise ConfigError("to", "gptq", f"A weight has {rows} rows, and eight zeros share a word.")
    groups = columns // group
    zeros = np.full((groups, rows // 8), 0x77777777, np.int32)
    return [
        Part(".qweight", "int32", (columns // 8, rows), partial(_gptq_words, group), by_rows=False),
        Part(".qzeros", "int32", zeros.shape, lambda values: zeros, by_rows=False),
        Part(".scales", "float16", (groups, rows), lambda values: gptq_scale(values, group).T, by_rows=False),
        Part(".g_idx", "int32", (columns,), lambda values: (np.arange(columns) // group).astype(np.int32), False),
    ]


def _gptq_words(group: int, values: np.ndarray) -> np.ndarray:
    rows, columns = values.shape
    words = np.empty((columns // 8, rows), np.uint32)
    scale = gptq_scale(values, group)
    for start in range(0, rows, _ROWS):  # so that the whole numbers take little beside the weight
        part = slice(start, start + _ROWS)
        whole = (gptq_integers(values[part], scale[part], group) + np.int8(8)).astype(np.uint32)
        eights = whole.reshape(len(whole), -1, 8) << (np.arange(8, dtype=np.uint32) * np.uint32(4))
        words[:, part] = np.bitwise_or.reduce(eights, axis=2).T
    return words.view(np.int32)


_ROWS = 256
