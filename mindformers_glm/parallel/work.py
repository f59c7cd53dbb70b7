"""Operations of a network, counted from its sizes; a multiplication and an addition are two.

One definition for the benchmark, the training log and every share of a machine's speed (MFU).
"""

from __future__ import annotations

from typing import Any


def layer_weights(config: Any) -> int:
    """Numbers in the matrices of all layers, the output layer not among them."""
    hidden, heads = config.hidden_size, config.num_attention_heads * config.kv_channels
    qkv = heads + 2 * config.num_kv_heads * config.kv_channels
    return config.num_layers * (qkv * hidden + heads * hidden + 3 * config.ffn_hidden_size * hidden)


def head_weights(config: Any) -> int:
    """Numbers in the output layer's matrix."""
    return config.padded_vocab_size * config.hidden_size


def attention_flop(config: Any, *, new: int, past: int) -> int:
    """Operations of attention forward for one sequence: 4 H E per layer for a new token and each one it sees."""
    pairs = new * past + new * (new + 1) // 2
    return 4 * config.num_attention_heads * config.kv_channels * pairs * config.num_layers


def training_flop(config: Any, *, sequences: int, length: int, adapter_numbers: int = 0) -> int:
    """Operations of a training step: 2 per weight and token forward, 2 for the input's gradient, 2 for the weight's.

    With `adapter_numbers` only the adapters' weights have the last. Nothing is counted twice where activations are
    recomputed.
    """
    weights = layer_weights(config) + head_weights(config)
    per_token = 4 * weights + 6 * adapter_numbers if adapter_numbers else 6 * weights
    return per_token * sequences * length + 3 * sequences * attention_flop(config, new=length, past=0)
