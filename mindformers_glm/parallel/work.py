"""Operations of a network, counted from its sizes; a multiplication and an addition are two.

One definition for the benchmark, the training log and every share of a machine's speed (MFU).
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Sizes(NamedTuple):
    """Numbers in the table (or the output layer), in the matrices of a layer, in its biases, in one norm."""

    table: int
    layer: int
    biases: int
    norm: int


def sizes(config: Any) -> Sizes:
    """The numbers of a network's parts: the one place that counts them from a configuration."""
    hidden, heads = config.hidden_size, config.num_attention_heads * config.kv_channels
    qkv = heads + 2 * config.num_kv_heads * config.kv_channels
    layer = qkv * hidden + heads * hidden + 3 * config.ffn_hidden_size * hidden
    return Sizes(config.padded_vocab_size * hidden, layer, qkv, hidden)


def layer_weights(config: Any) -> int:
    """Numbers in the matrices of all layers, the output layer not among them."""
    return config.num_layers * sizes(config).layer


def head_weights(config: Any) -> int:
    """Numbers in the output layer's matrix."""
    return sizes(config).table


def attention_flop(config: Any, *, new: int, past: int) -> int:
    """Operations of attention forward for one sequence: 4 H E per layer for a new token and each one it sees."""
    pairs = new * past + new * (new + 1) // 2
    return 4 * config.num_attention_heads * config.kv_channels * pairs * config.num_layers


class Trained(NamedTuple):
    """What a step trains: numbers in the network's matrices (None: all of them), numbers of adapters, and how many
    layers come before the first of either, to which no gradient is carried.
    """

    weights: int | None = None
    adapters: int = 0
    layers_before: int = 0


def training_flop(config: Any, *, sequences: int, length: int, trained: Trained | None = None) -> int:
    """Operations of a training step: 2 per weight and token forward, 2 for the input's gradient, 2 for the weight's.

    Frozen weights have no gradient of their own, and layers before the first that is trained none at all. Nothing is
    counted twice where activations are recomputed.
    """
    trained, layers = trained or Trained(), layer_weights(config)
    weights = layers + head_weights(config)
    own = weights if trained.weights is None else trained.weights
    without_gradient = layers // config.num_layers * trained.layers_before
    per_token = 4 * weights - 2 * without_gradient + 2 * own + 6 * trained.adapters
    attention = attention_flop(config, new=length, past=0)
    attention += 2 * (attention // config.num_layers) * (config.num_layers - trained.layers_before)
    return sequences * (per_token * length + attention)
