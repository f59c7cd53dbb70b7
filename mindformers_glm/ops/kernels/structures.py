"""The structures of source/linear.h and source/network.h, field by field; `differences` compares both.

`kind` of a weight is one of KINDS, `layout` of integers one of LAYOUTS.
"""

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

_KINDS = {name.lower(): kind for name, kind in KINDS.items()}

W8A8 = 5  # int8 weights and integer inputs

CACHE_KINDS = {"float32": 0, "float16": 2, "int8": 3}  # types of numbers in the KV cache
LAYOUTS = {"rows": 0, "panels": 1}  # as ops/quantized.py says; as source/packing.h says
UNKNOWN_ID = 2  # glm_forward: an id is not in the vocabulary

_pointer, _size, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class LinearStruct(ctypes.Structure):
    """A weight with its scales, bias and adapters."""


class LoraStruct(ctypes.Structure):
    """An adapter of a weight; without `a` and `b` there is none."""

    _fields_ = [
        ("a", ctypes.POINTER(LinearStruct)),
        ("b", ctypes.POINTER(LinearStruct)),
        ("factor", _pointer),
        ("scale", ctypes.c_float),
    ]


LinearStruct._fields_ = [
    *[(name, _pointer) for name in ("weight", "scale", "bias")],
    ("loras", ctypes.POINTER(LoraStruct)),
    *[(name, _size) for name in ("rows", "columns", "num_loras")],
    *[(name, _int) for name in ("kind", "group", "bias_kind", "layout")],
    *[(name, ctypes.c_float) for name in ("input_scale", "input_offset")],
    *[(name, _pointer) for name in ("row_scale", "row_bias")],
]


class NormStruct(ctypes.Structure):
    """RMSNorm, or LayerNorm where there is a bias; without a weight there is none."""

    _fields_ = [("weight", _pointer), ("bias", _pointer), ("kind", _int)]


class LayerStruct(ctypes.Structure):
    """One layer of the network."""

    _fields_ = [
        ("attention_norm", NormStruct),
        ("qkv", LinearStruct),
        ("out", LinearStruct),
        ("after_attention", NormStruct),
        ("mlp_norm", NormStruct),
        ("gate_up", LinearStruct),
        ("down", LinearStruct),
        ("after_mlp", NormStruct),
    ]


class NetworkStruct(ctypes.Structure):
    """Shape and weights of a network."""

    _fields_ = [
        *[
            (name, _size)
            for name in (
                *("layers", "hidden", "heads", "kv_heads", "head_dim"),
                *("rotary_dim", "ffn", "vocabulary", "length"),
            )
        ],
        ("epsilon", ctypes.c_float),
        *[(name, _int) for name in ("is_grouped", "residual_is_norm", "has_final_norm")],
        ("rotary", _pointer),
        ("embedding", LinearStruct),
        ("layer", ctypes.POINTER(LayerStruct)),
        ("final_norm", NormStruct),
        ("head", LinearStruct),
        ("prefix", _pointer),
        ("prefix_length", _size),
    ]


class StepStruct(ctypes.Structure):
    """One forward pass: tokens, KV cache, and which logits are wanted."""

    _fields_ = [
        *[(name, _size) for name in ("sequences", "width", "num_wanted", "most_blocks")],
        *[(name, _pointer) for name in ("tokens", "counts", "lengths", "adapters", "blocks", "wanted", "logits")],
        ("cache_kind", _int),
    ]


class ChoiceStruct(ctypes.Structure):
    """How to choose the token of a sequence, and the token that was chosen (choosing.h)."""

    _fields_ = [
        ("row", _size),
        *[(name, _pointer) for name in ("ids", "banned", "biased", "biases")],
        *[(name, _size) for name in ("num_ids", "num_new", "num_banned", "num_biased", "num_best")],
        ("mask", _pointer),
        ("mask_bytes", _size),
        *[(name, ctypes.c_double) for name in ("uniform", "temperature", "top_p", "penalty", "presence", "frequency")],
        *[(name, _int) for name in ("ngram", "top_k", "is_greedy", "wants_logprob", "token")],
        ("logprob", ctypes.c_double),
        *[(name, _pointer) for name in ("best", "best_logprobs")],
    ]


_NAMES = {
    LinearStruct: "Linear",
    LoraStruct: "Lora",
    NormStruct: "GlmNorm",
    LayerStruct: "GlmLayer",
    NetworkStruct: "GlmNetwork",
    StepStruct: "GlmStep",
    ChoiceStruct: "GlmChoice",
}


def differences(told: str) -> list[str]:
    """The structures whose layout in a library differs, by their names in C++. `told` is what glm_structures returns:
    a line `NAME SIZE FIELD:OFFSET:SIZE ...` for each.
    """
    theirs = {line.split(" ", 1)[0]: line for line in told.splitlines() if line}
    return [name for kind, name in _NAMES.items() if theirs.get(name) != _line(kind, name)]


def _line(kind: type[ctypes.Structure], name: str) -> str:
    fields = [(field, getattr(kind, field)) for field, *_ in kind._fields_]
    return " ".join([name, str(ctypes.sizeof(kind)), *(f"{field}:{at.offset}:{at.size}" for field, at in fields)])


def kind_of(dtype: Any) -> int:
    """The `kind` of a type, by its name here or MindSpore's."""
    return _KINDS[str(dtype).lower()]


def address(array: Any) -> int:
    """Where the first number of a contiguous array is."""
    return array.ctypes.data


def usual_cache(*, is_exact: bool) -> str:
    """The type of keys and values where the user has chosen none.

    float16; float32 where all linear layers have float32 weights or are W8A8 (`is_exact`). A float32 network is run for
    exact numbers, to be compared with official outputs and with MindSpore's operators, and its weights are so large
    that the cache matters little. W8A8 rounds activations in the same coarse steps as a device, and reproduces its
    numbers only from exact inputs. Scores (`Engine.score`, used by `evaluate`, perplexity and `logprobs` of a prompt)
    are computed with float32, whatever the weights.
    """
    return "float32" if is_exact else "float16"
