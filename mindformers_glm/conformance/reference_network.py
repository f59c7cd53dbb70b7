"""A whole ChatGLM2 or ChatGLM3 in float64 NumPy, from its published description. Weights by the suite's names.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mindformers_glm.conformance import reference

Array = np.ndarray


class Size(NamedTuple):
    """Of a network small enough for loops."""

    layers: int = 3
    hidden: int = 32
    heads: int = 4
    kv_heads: int = 2
    channels: int = 16
    ffn: int = 24
    words: int = 64
    eps: float = 1e-5


def weights(size: Size) -> dict[str, Array]:
    """Random weights far from their initial values, in numbers that float32 has."""
    random = np.random.RandomState(20)
    width = (size.heads + 2 * size.kv_heads) * size.channels
    shapes: dict[str, tuple[int, ...]] = {"transformer.embedding.embedding_table": (size.words, size.hidden)}
    for layer in range(size.layers):
        at = f"transformer.encoder.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (size.hidden,),
            at + "self_attention.query_key_value.weight": (width, size.hidden),
            at + "self_attention.query_key_value.bias": (width,),
            at + "self_attention.dense.weight": (size.hidden, size.heads * size.channels),
            at + "post_attention_layernorm.weight": (size.hidden,),
            at + "mlp.dense_h_to_4h.weight": (2 * size.ffn, size.hidden),
            at + "mlp.dense_4h_to_h.weight": (size.hidden, size.ffn),
        }
    shapes |= {"transformer.encoder.final_layernorm.weight": (size.hidden,)}
    shapes |= {"transformer.output_layer.weight": (size.words, size.hidden)}
    found = {}
    for name, shape in shapes.items():
        value = random.standard_normal(shape) * 0.2 + ("layernorm" in name)
        found[name] = value.astype(np.float32).astype(np.float64)
    return found


def layer(at: str, x: Array, w: Mapping[str, Array], size: Size, batch: int, first: Array | None = None) -> Array:
    """One layer: rows (B * T, D) -> (B * T, D)."""
    normed = reference.rms_norm(x, w[at + "input_layernorm.weight"], size.eps)
    qkv = normed @ w[at + "self_attention.query_key_value.weight"].T + w[at + "self_attention.query_key_value.bias"]
    mixed = reference.self_attention(qkv, batch=batch, heads=size.heads, kv_heads=size.kv_heads, first=first)
    x = x + mixed @ w[at + "self_attention.dense.weight"].T
    normed = reference.rms_norm(x, w[at + "post_attention_layernorm.weight"], size.eps)
    wide = reference.silu_gate(normed @ w[at + "mlp.dense_h_to_4h.weight"].T)
    return x + wide @ w[at + "mlp.dense_4h_to_h.weight"].T


def states(ids: Array, w: Mapping[str, Array], size: Size, first: Array | None = None) -> list[Array]:
    """The rows (B * T, D) after the embedding and after each layer."""
    found = [w["transformer.embedding.embedding_table"][ids.reshape(-1)]]
    for number in range(size.layers):
        found.append(layer(f"transformer.encoder.layers.{number}.", found[-1], w, size, len(ids), first))
    return found


def logits(ids: Array, w: Mapping[str, Array], size: Size, first: Array | None = None) -> Array:
    """Rows (B * T, V)."""
    last = reference.rms_norm(
        states(ids, w, size, first)[-1], w["transformer.encoder.final_layernorm.weight"], size.eps
    )
    return last @ w["transformer.output_layer.weight"].T


def loss(ids: Array, labels: Array, w: Mapping[str, Array], size: Size) -> float:
    """The mean loss over the labels that are not -100."""
    return float(reference.cross_entropy(logits(ids, w, size), labels.reshape(-1)))


def slopes(
    ids: Array, labels: Array, w: Mapping[str, Array], size: Size, along: Mapping[str, Array]
) -> dict[str, float]:
    """For each weight the change of the loss along a direction: what its gradient times the direction adds up to."""
    step, found = 1e-5, {}
    for name, direction in along.items():
        sides = [loss(ids, labels, {**w, name: w[name] + sign * step * direction}, size) for sign in (1, -1)]
        found[name] = (sides[0] - sides[1]) / (2 * step)
    return found
