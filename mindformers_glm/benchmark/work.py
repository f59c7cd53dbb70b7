"""How much there is to do: operations and bytes of a step, counted from the network's own weights.

Shapes: B batch, T tokens, H heads, E head_dim, L layers, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mindformers_glm.benchmark.settings import Settings
from mindformers_glm.parallel.memory import count_parameters
from mindformers_glm.parallel.work import Trained, attention_flop, head_weights, layer_weights, training_flop

_EMBEDDING = "embedding_table"
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}


def tensors_of(model: Any) -> Iterable[Any]:
    """The parameters of a MindSpore model, or the tensors of a network without (assembly/held.py)."""
    return model.get_parameters() if hasattr(model, "get_parameters") else model.tensors()


def parameter_bytes(tensor: Any) -> int:
    """Memory of one parameter."""
    return math.prod(tensor.shape) * _ITEM_BYTES[str(tensor.dtype).lower()]


def weight_bytes(model: Any) -> int:
    """Memory of all parameters."""
    return sum(parameter_bytes(tensor) for tensor in tensors_of(model))


def parameter_count(settings: Settings) -> int:
    """Weights of the network, without adapters: both tables, matrices, norms and biases."""
    return sum(count_parameters(settings.config()))


def train_flop(settings: Settings, *, trained_numbers: int) -> int:
    """Operations of a training step (parallel/work.py)."""
    trained = Trained(weights=0, adapters=trained_numbers) if settings.lora else Trained()
    return training_flop(settings.config(), sequences=settings.batch, length=settings.length, trained=trained)


def prefill_flop(settings: Settings) -> int:
    """Operations of a prompt: every layer for every token, the output layer for the last."""
    config = settings.config()
    per_row = 2 * layer_weights(config) * settings.length + 2 * head_weights(config)
    return settings.batch * (per_row + attention_flop(config, new=settings.length, past=0))


def decode_bytes(model: Any, settings: Settings, *, cache_bytes_per_token: int) -> int:
    """Bytes that one step must read: every weight once, a row of the embedding for each token, and the cache."""
    total = 0
    for parameter in tensors_of(model):
        size = parameter_bytes(parameter)
        total += size // parameter.shape[0] * settings.batch if parameter.name.endswith(_EMBEDDING) else size
    context = settings.length + settings.steps // 2  # of a usual step
    return total + settings.batch * context * cache_bytes_per_token
