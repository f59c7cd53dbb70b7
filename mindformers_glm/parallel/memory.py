"""How much memory a training process needs on its device: a formula, so that a job can be planned before it is started.

Weights and gradients are those of a tensor rank and a stage; Adam keeps two float32 moments. With ZeRO 1 they are
divided over data ranks, and each rank keeps a copy of the rows of the weights that it updates; with 2 gradients are
divided too, with 3 weights, of which the two largest layers are whole at a time. Micro batches add up float32
gradients. Activations are an estimate: what the backward pass must find again, and the largest layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mindformers_glm.parallel.work import sizes

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_MOMENTS = 8  # two float32 numbers
_GRADIENTS, _WEIGHTS = 2, 3  # levels of ZeRO
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
    """What is trained: rows of `seq_length` tokens on a data rank, and how. `micro` batches make up a step."""

    batch_size: int
    seq_length: int
    recompute: bool = True
    lora_rank: int = 0  # 0: all weights are trained
    micro: int = 1


class Grid(NamedTuple):
    """How the job is divided. `level` is ZeRO's; `rows`: tensor ranks divide the rows between their layers."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    level: int = 0
    rows: bool = False

    @property
    def replicas(self) -> int:
        """Ranks that hold the same part of the network."""
        return self.dp * self.cp

    @property
    def devices(self) -> int:
        """All ranks."""
        return self.dp * self.tp * self.pp * self.cp


class Part(NamedTuple):
    """Numbers of weights on one rank: matrices of layers, table and head, and what is never divided over replicas."""

    table: float
    matrices: float  # of the layers, and the head
    small: float  # biases, in the type of the matrices
    norms: float  # in `layernorm_compute_type`


def count_parameters(config: Any) -> tuple[int, int, int]:
    """(embedding rows x D, all other weights that tensor ranks divide, what every tensor rank holds whole)."""
    table, layer, bias, norms = sizes(config)
    divided = config.num_layers * (layer + bias) + table
    return table, divided, (2 * config.num_layers + 1) * norms


def part_of(config: Any, grid: Grid, stage: int, layers: int) -> Part:
    """What a rank of `stage`, which has so many layers, holds before replicas divide it."""
    table, layer, bias, norm = sizes(config)
    first, last = stage == 0, stage == grid.pp - 1
    head = table if last else 0
    return Part(
        table=(table if first else 0) / grid.tp,
        matrices=(layers * layer + head) / grid.tp,
        small=layers * bias / grid.tp,
        norms=(2 * layers + last) * norm,
    )


def estimate(
    config: Any,
    task: Task,
    *,
    dp: int = 1,
    tp: int = 1,
    divided: bool = False,
    grid: Grid | None = None,
    layers: Sequence[int] = (),
) -> Memory:
    """Memory of the process that needs most, of `dp` x `tp` or of a whole `grid` with `layers` on each stage."""
    grid = grid or Grid(dp, tp, level=int(divided))
    counts = list(layers) or [config.num_layers]
    return max((_of_stage(config, task, grid, stage, counts) for stage in range(grid.pp)), key=lambda one: one.total)


def _of_stage(config: Any, task: Task, grid: Grid, stage: int, counts: Sequence[int]) -> Memory:
    kind, embedding_kind = _BYTES[config.param_init_type], _BYTES[config.embedding_type]
    norm_kind, layers = _BYTES[config.layernorm_compute_type], counts[stage]
    part, over, level = part_of(config, grid, stage, layers), grid.replicas, grid.level if grid.replicas > 1 else 0
    large, rest = part.table * embedding_kind + part.matrices * kind, part.small * kind + part.norms * norm_kind
    weights = large / (over if level == _WEIGHTS else 1) + rest
    if task.lora_rank:
        qkv = (config.num_attention_heads + 2 * config.num_kv_heads) * config.kv_channels
        trained = layers * task.lora_rank * (config.hidden_size + qkv / grid.tp)
        weights, gradients, divides = weights + trained * 4, trained * 4.0, level in (1, 2)
        own = trained / over if divides else trained
        copies = gradients / over if divides else 0.0
    else:
        trained, gradients = part.table + part.matrices + part.small + part.norms, large + rest
        divides = level in (1, 2)
        own = trained / over if divides else trained
        if level == _WEIGHTS:
            own = (part.table + part.matrices) / over + part.small + part.norms
        copies = gradients / over if divides else 0.0
    moments = own * _MOMENTS + copies
    if level > 1 and not (task.lora_rank and level == _WEIGHTS):
        gradients = gradients / over if level == _GRADIENTS else large / over + rest
    if task.micro > 1 or grid.pp > 1:
        gradients += 4 * (own if level > 1 else trained)
    alive = activations(config, task, tp=grid.tp, grid=grid, stage=stage, layers=layers)
    if level == _WEIGHTS:
        alive += max(2 * (part.matrices / max(layers, 1)) * kind, part.table * embedding_kind)
    return Memory(weights, gradients, moments, alive)


def activations(
    config: Any, task: Task, *, tp: int = 1, grid: Grid | None = None, stage: int = 0, layers: int | None = None
) -> float:
    """Bytes that the forward pass leaves for the backward pass, at the moment when most are alive."""
    grid, layers = grid or Grid(tp=tp), config.num_layers if layers is None else layers
    tokens, d = task.seq_length / grid.cp, config.hidden_size
    rows, shared = task.batch_size * tokens, grid.tp if grid.rows else 1
    stream, kind = _BYTES[config.layernorm_compute_type], _BYTES[config.compute_dtype]
    qkv = (config.num_attention_heads + 2 * config.num_kv_heads) * config.kv_channels / grid.tp
    scores = config.num_attention_heads / grid.tp * task.seq_length * (4 + 4 + kind)  # scores, softmax, cast
    between = (4 * stream + 2 * kind) * d / shared
    inside = between + 3 * kind * qkv + scores + 5 * kind * config.ffn_hidden_size / grid.tp
    is_last = stage == grid.pp - 1
    logits = rows * config.padded_vocab_size / grid.tp * (kind + 4 + 4) if is_last else 0  # with softmax and gradient
    waiting = min(grid.pp - stage, task.micro) * rows * d * stream / shared if grid.pp > 1 else 0
    if task.recompute:
        kept = layers * rows * d * stream / shared
        return waiting + kept + max(2 * rows * inside, logits)
    return waiting + layers * rows * inside + logits
