"""The structures of source/linear.h and source/network.cpp, field by field."""

from __future__ import annotations

import ctypes
from typing import Any

KINDS = {
    "Float32": 0,
    "BFloat16": 1,
    "Float16": 2,
    "Int8": 3,
    "UInt8": 4,
}  # names of MindSpore's types; UInt8 holds int4

_pointer, _size, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class LinearStruct(ctypes.Structure):
    """A weight with what belongs to it."""


LinearStruct._fields_ = [
    ("weight", _pointer),
    ("scale", _pointer),
    ("bias", _pointer),
    ("lora_a", ctypes.POINTER(LinearStruct)),
    ("lora_b", ctypes.POINTER(LinearStruct)),
    ("rows", _size),
    ("columns", _size),
    ("kind", _int),
    ("group", _int),
    ("bias_kind", _int),
    ("lora_scale", ctypes.c_float),
]


class NormStruct(ctypes.Structure):
    """RMSNorm, or LayerNorm where there is a bias."""

    _fields_ = [("weight", _pointer), ("bias", _pointer), ("kind", _int)]


class LayerStruct(ctypes.Structure):
    """One layer of the network."""

    _fields_ = [
        ("input_layernorm", NormStruct),
        ("query_key_value", LinearStruct),
        ("dense", LinearStruct),
        ("post_attention_layernorm", NormStruct),
        ("dense_h_to_4h", LinearStruct),
        ("dense_4h_to_h", LinearStruct),
    ]


class NetworkStruct(ctypes.Structure):
    """Shape and weights of a network."""

    _fields_ = [
        *[
            (name, _size)
            for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocabulary", "length")
        ],
        ("epsilon", ctypes.c_float),
        *[(name, _int) for name in ("is_grouped", "residual_is_norm", "has_final_norm")],
        ("rotary", _pointer),
        ("embedding", LinearStruct),
        ("layer", ctypes.POINTER(LayerStruct)),
        ("final_layernorm", NormStruct),
        ("output_layer", LinearStruct),
        ("prefix", _pointer),
        ("prefix_length", _size),
    ]


class StepStruct(ctypes.Structure):
    """One forward: tokens, the cache, what is wanted."""

    _fields_ = [
        *[(name, _size) for name in ("rows", "width", "slots", "num_wanted")],
        *[(name, _pointer) for name in ("tokens", "counts", "lengths", "keys", "values", "wanted", "logits")],
    ]


def address(array: Any) -> int:
    """Where the first number of a contiguous array is."""
    return array.ctypes.data
