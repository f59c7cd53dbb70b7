"""Which division of a training job fits the devices and is the fastest, by a stated cost model.

Time of a step = (computing + exchanges within layers) * (1 + (pp - 1) / micro batches) + exchanges between steps:

- computing: 6 floating-point operations a weight and token, and 12 L T D for attention; a third more when layers are
  recomputed, and once more the forward pass of all stages but the last, which a pipeline computes again;
- within layers: 4 sums a layer of a micro batch's rows over tensor ranks (an all-reduce sends 2 (n - 1) / n of its
  bytes), keys and values gathered and their gradients scattered over ranks of a sequence, weights joined twice a micro
  batch with ZeRO 3 (in stages once more, as they compute the forward pass again), rows sent to the next stage and back;
- between steps: gradients summed over the replicas (with ZeRO 2 once for each micro batch, half the bytes), updated
  weights gathered with ZeRO 1 and 2.

Nothing is taken to overlap, and a device to compute and to send at the given rates. These are assumptions to choose by,
not predictions: no device was at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.parallel.memory import GB, Grid, Memory, Task, count_parameters, estimate
from mindformers_glm.parallel.mesh import check_tensor_parallel

_LONG = 8192  # tokens from which on sequences are divided too
_FEW = 3  # ranks of a sequence, and stages, are tried as powers of two up to 2 ** _FEW
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


class Machine(NamedTuple):
    """The devices: how many, memory of one, floating-point operations and bytes sent a second."""

    devices: int
    gigabytes: float
    flops: float = 100e12
    bandwidth: float = 25e9
    reserved: float = 2.0  # GB that MindSpore's runtime and exchange buffers take


class Proposal(NamedTuple):
    """A division with its memory on the rank that needs most and its time of a step in seconds."""

    grid: Grid
    micro: int
    layers: tuple[int, ...]
    memory: Memory
    seconds: float
    sent: float  # bytes of one rank in a step


def proposals(
    config: Any, task: Task, machine: Machine, *, batch: int, stages: Callable[[int], Sequence[int]]
) -> list[Proposal]:
    """Every division that fits, the fastest first; of equal ones that which divides less.

    `batch` are the samples of a step, which all divisions keep; `stages` gives the layers of so many stages, or raises
    ConfigError.
    """
    found = []
    for grid in grids(machine.devices, task.seq_length):
        micro, rest = divmod(batch, grid.dp * task.batch_size)
        if rest or micro < grid.pp:
            continue
        try:
            check_tensor_parallel(config, grid.tp)
            layers = tuple(stages(grid.pp)) if grid.pp > 1 else ()
        except ConfigError:
            continue
        job = task._replace(micro=micro)
        memory = estimate(config, job, grid=grid, layers=layers)
        if memory.total / GB + machine.reserved <= machine.gigabytes:
            seconds, sent = cost(config, job, grid, machine)
            found.append(Proposal(grid, micro, layers, memory, seconds, sent))
    return sorted(found, key=lambda one: (round(one.seconds, 6), one.grid.pp, one.grid.tp, one.grid.level, one.grid.cp))


def grids(devices: int, tokens: int) -> Iterator[Grid]:
    """Divisions of so many devices: tensor ranks within a server of eight, stages and parts of sequences in twos."""
    twos = [1 << power for power in range(_FEW + 1)]
    for tp in twos:
        for pp in twos:
            for cp in twos if tokens >= _LONG else [1]:
                if devices % (tp * pp * cp) or tokens % cp:
                    continue
                dp = devices // (tp * pp * cp)
                for level in (0, 1, 2, 3) if dp * cp > 1 else (0,):
                    for rows in (False, True) if tp > 1 else (False,):
                        yield Grid(dp, tp, pp, cp, level, rows)


def cost(config: Any, task: Task, grid: Grid, machine: Machine) -> tuple[float, float]:
    """(seconds of a step, bytes that one rank sends in it), as the module says."""
    table, cut, whole = count_parameters(config)
    tokens, d = task.batch_size * task.seq_length, config.hidden_size
    kind, stream = _BYTES[config.compute_dtype], _BYTES[config.layernorm_compute_type]
    per_token = 2 * cut + 4 * config.num_layers * task.seq_length * d  # one forward pass
    backward = 2 if not task.lora_rank else 1
    passes = 1 + backward + bool(task.recompute) + (1 - 1 / grid.pp)
    computing = tokens * per_token * passes / (grid.tp * grid.pp * grid.cp) / machine.flops

    rows, layers = tokens / grid.cp * d * kind, config.num_layers / grid.pp
    sums = 4 * layers * rows * _sent(grid.tp) * (1 + bool(task.recompute) / 2)
    keys = 2 * config.num_kv_heads * config.kv_channels / grid.tp * tokens / grid.cp * kind
    sequence = 2 * layers * keys * (grid.cp - 1)
    between = 2 * tokens / grid.cp * d * stream / (grid.tp if grid.rows else 1) if grid.pp > 1 else 0.0
    trained = (table + cut + whole) / (grid.tp * grid.pp)
    if task.lora_rank:
        qkv = (config.num_attention_heads + 2 * config.num_kv_heads) * config.kv_channels
        trained = layers * task.lora_rank * (d + qkv / grid.tp)
    weights, gradients = (table + cut) / (grid.tp * grid.pp) * kind, trained * kind
    joins = 0.0
    if grid.level == 3:  # noqa: PLR2004 - ZeRO's own number
        scattered = 0.0 if task.lora_rank else gradients * _sent(grid.replicas) / 2
        joins = (3 if grid.pp > 1 else 2) * weights * _sent(grid.replicas) / 2 + scattered
    of_micro = sums + sequence + between + joins
    after = 0.0
    if grid.level < 2:  # noqa: PLR2004
        after = gradients * _sent(grid.replicas)
    elif grid.level == 2:  # noqa: PLR2004
        of_micro += gradients * _sent(grid.replicas) / 2
    if grid.level in (1, 2):
        after += gradients * _sent(grid.replicas) / 2
    filled = (task.micro + grid.pp - 1) * (computing + of_micro / machine.bandwidth)
    return filled + after / machine.bandwidth, task.micro * of_micro + after


def _sent(ranks: int) -> float:
    """What an all-reduce over so many ranks sends, as a part of its bytes; half of it for gathering or scattering."""
    return 2 * (ranks - 1) / ranks


def settings_of(one: Proposal) -> dict[str, Any]:
    """The YAML sections that ask for a division."""
    grid = one.grid
    changes: dict[str, Any] = {
        "use_parallel": grid.devices > 1,
        "parallel": {"parallel_mode": 1, "zero_level": grid.level, "enable_parallel_optimizer": grid.level > 0},
        "parallel_config": {
            "data_parallel": grid.dp,
            "model_parallel": grid.tp,
            "pipeline_stage": grid.pp,
            "context_parallel": grid.cp,
            "micro_batch_num": one.micro if grid.pp > 1 else 1,
            "use_seq_parallel": grid.rows,
        },
        "runner_config": {"gradient_accumulation_steps": 1 if grid.pp > 1 else one.micro},
    }
    return changes
