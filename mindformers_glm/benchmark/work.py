"""How much there is to do: operations and bytes of a step, counted from the network's own weights.

Shapes: B batch, T tokens, H heads, E head_dim, L layers, V vocabulary, D hidden.
"""

from __future__ import annotations

import math

from mindspore import Parameter, nn

from mindformers_glm.benchmark.settings import Settings

_EMBEDDING = "embedding_table"
_ITEM_BYTES = {"Float32": 4, "Float16": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Int32": 4, "Int64": 8}


def parameter_bytes(parameter: Parameter) -> int:
    """Memory of one parameter."""
    return math.prod(parameter.shape) * _ITEM_BYTES[str(parameter.dtype)]


def weight_bytes(model: nn.Cell) -> int:
    """Memory of all parameters."""
    return sum(parameter_bytes(parameter) for parameter in model.get_parameters())


def parameter_count(settings: Settings) -> int:
    """Weights of the network, without adapters: both tables, matrices, norms and biases."""
    v, d, layers, _, _, ffn = settings.shape
    qkv = d + 2 * settings.shape.kv_groups * settings.shape.head_dim
    return 2 * v * d + layers * (qkv * d + qkv + d * d + 3 * ffn * d + 2 * d) + d


def layer_weights(settings: Settings) -> int:
    """Numbers in the matrices of all layers, the output layer not among them."""
    _, d, layers, _, groups, ffn = settings.shape
    return layers * (d * (d + 2 * groups * settings.shape.head_dim) + d * d + 3 * d * ffn)


def attention_flop(settings: Settings, *, new: int, past: int) -> int:
    """Operations of attention forward for one sequence: 4 H E per layer for a new token and each one it sees."""
    pairs = new * past + new * (new + 1) // 2
    return 4 * settings.shape.hidden * pairs * settings.shape.layers


def train_flop(settings: Settings, *, trained_numbers: int) -> int:
    """Operations of a training step: 2 per weight and token forward, 2 for the input's gradient, 2 for the weight's.

    With LoRA only the adapters' weights have the last. Nothing is counted twice where activations are recomputed.
    """
    tokens = settings.batch * settings.length
    weights = layer_weights(settings) + settings.shape.vocab * settings.shape.hidden
    per_token = 4 * weights + 6 * trained_numbers if settings.lora else 6 * weights
    attention = 3 * settings.batch * attention_flop(settings, new=settings.length, past=0)
    return per_token * tokens + attention


def prefill_flop(settings: Settings) -> int:
    """Operations of a prompt: every layer for every token, the output layer for the last."""
    per_row = 2 * layer_weights(settings) * settings.length + 2 * settings.shape.vocab * settings.shape.hidden
    return settings.batch * (per_row + attention_flop(settings, new=settings.length, past=0))


def decode_bytes(model: nn.Cell, settings: Settings, *, cache_bytes_per_token: int) -> int:
    """Bytes that one step must read: every weight once, a row of the embedding for each token, and the cache."""
    total = 0
    for parameter in model.get_parameters():
        size = parameter_bytes(parameter)
        total += size // parameter.shape[0] * settings.batch if parameter.name.endswith(_EMBEDDING) else size
    context = settings.length + settings.steps // 2  # of a usual step
    return total + settings.batch * context * cache_bytes_per_token
