"""How much memory a training process needs on its device: a formula, so that a job can be planned before it is started.

Weights and gradients are those of a tensor rank; Adam keeps two float32 moments. With `enable_parallel_optimizer` they
are divided over data ranks, and each rank keeps a copy of the rows of the weights that it updates. Activations are an
estimate: what the backward pass must find again, and the largest layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_MOMENTS = 8  # two float32 numbers
GB = 1024**3


class Memory(NamedTuple):
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of it; the device needs some more for its runtime and for exchange buffers (1 to 2 GB)."""
        return sum(self)


class Task(NamedTuple):
    """What is trained: rows of `seq_length` tokens on a data rank, and how."""

    batch_size: int
    seq_length: int
    recompute: bool = True
    lora_rank: int = 0  # 0: all weights are trained


def count_parameters(config: Any) -> tuple[int, int, int]:
    """(embedding rows x D, all other weights that tensor ranks divide, what every tensor rank holds whole)."""
    d, heads = config.hidden_size, config.num_attention_heads * config.kv_channels
    qkv = heads + 2 * config.num_kv_heads * config.kv_channels
    layer = qkv * d + qkv + heads * d + 3 * config.ffn_hidden_size * d
    divided = config.num_layers * layer + config.padded_vocab_size * d
    return config.padded_vocab_size * d, divided, (2 * config.num_layers + 1) * d


def estimate(config: Any, task: Task, *, dp: int = 1, tp: int = 1, divided: bool = False) -> Memory:
    """Memory of one process of `dp` x `tp` that trains the network of a configuration."""
    kind, embedding_kind = _BYTES[config.param_init_type], _BYTES[config.embedding_type]
    table, cut, whole = count_parameters(config)
    weights = (table * embedding_kind + cut * kind) / tp + whole * _BYTES[config.layernorm_compute_type]
    if task.lora_rank:
        qkv = (config.num_attention_heads + 2 * config.num_kv_heads) * config.kv_channels
        trained = config.num_layers * task.lora_rank * (config.hidden_size + qkv / tp)
        weights += trained * 4
        gradients = trained * 4
    else:
        trained = (table + cut) / tp + whole
        gradients = weights
    optimizer = (trained * _MOMENTS + gradients) / dp if divided and dp > 1 else trained * _MOMENTS
    return Memory(weights, gradients, optimizer, activations(config, task, tp=tp))


def activations(config: Any, task: Task, *, tp: int = 1) -> float:
    """Bytes that the forward pass leaves for the backward pass, at the moment when most are alive."""
    rows, d = task.batch_size * task.seq_length, config.hidden_size
    stream, kind = _BYTES[config.layernorm_compute_type], _BYTES[config.compute_dtype]
    qkv = (config.num_attention_heads + 2 * config.num_kv_heads) * config.kv_channels / tp
    scores = config.num_attention_heads / tp * task.seq_length * (4 + 4 + kind)  # scores, softmax, cast
    inside = (4 * stream + 2 * kind) * d + 3 * kind * qkv + scores + 5 * kind * config.ffn_hidden_size / tp
    logits = rows * config.padded_vocab_size / tp * (kind + 4 + 4)  # logits, log-softmax, gradient
    if task.recompute:
        kept = config.num_layers * rows * d * stream
        return kept + max(2 * rows * inside, logits)
    return config.num_layers * rows * inside + logits
