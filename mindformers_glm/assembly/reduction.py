"""What the ranks of a grid do together in a training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from mindspore import Parameter, nn

from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.parallel.collectives import ReduceFromRanks
from mindformers_glm.parallel.gradients import CompleteSome, Exchange, GradientSum, SquareSum
from mindformers_glm.parallel.mesh import TIED, Mesh
from mindformers_glm.parallel.optimizer import ShardedOptimizer
from mindformers_glm.parallel.sharding import OwnGradients, shares_of_own_rows


class Reduction(NamedTuple):
    """What ranks do together. The default is one process alone.

    `gradients` adds gradients up over the data ranks; `squared_norm` is their sum of squares with each weight counted
    once; `labels` adds a count up over the data ranks; `everyone` adds a flag up over all ranks, `stages` the loss over
    those of a pipeline. With `each` micro batch's gradients are reduced at once, to those of `owned` shapes, and
    `ends` adds up at the end what two stages have parts of: in between these are at different micro batches.
    """

    gradients: nn.Cell | None = None
    squared_norm: nn.Cell | None = None
    labels: nn.Cell | None = None
    everyone: nn.Cell | None = None
    stages: nn.Cell | None = None
    each: bool = False
    owned: tuple[tuple[int, ...], ...] = ()
    ends: nn.Cell | None = None


def reduction_of(
    parameters: Sequence[Parameter],
    config: NetworkConfig,
    mesh: Mesh,
    *,
    level: int = 0,
    joined: Sequence[bool] = (),
    exchange: Exchange | None = None,
) -> Reduction:
    """The exchanges of a step that trains `parameters` (in the optimizer's order) of the whole network `config`.

    `level` 2 gives each replica its rows of gradients; of `joined` parameters (level 3) it holds rows itself.
    `exchange` says when sums begin and how large they are; their order is found here.
    """
    if mesh.size == 1:
        return Reduction()
    parameters, axis, ranks = list(parameters), mesh.replicas, FAMILIES.of(config).ranks()
    joined = list(joined) or [False] * len(parameters)
    held = [
        SimpleNamespace(name=one.name, shape=(one.shape[0] * axis.size, *one.shape[1:]) if own else tuple(one.shape))
        for one, own in zip(parameters, joined, strict=True)
    ]
    partial, shares = ranks.partial_gradients(held, config, mesh), ranks.square_shares(held, config, mesh)
    when = (exchange or Exchange())._replace(order=backward_order([one.name for one in parameters], config))
    others: dict[str, Any] = {
        "labels": ReduceFromRanks(mesh.data) if mesh.data.size > 1 else None,  # each rank has a sequence's labels
        "everyone": ReduceFromRanks(mesh.everybody),
        "stages": ReduceFromRanks(mesh.stage) if mesh.stage.size > 1 else None,
    }
    if level < 2 or axis.size == 1:  # noqa: PLR2004 - ZeRO's own number
        gradients = GradientSum(parameters, mesh, partial=partial, exchange=when)
        return Reduction(gradients, SquareSum(shares, mesh), **others)
    tied = {i: partial.pop(i) for i in list(partial) if partial[i].axis.name == TIED}
    for position in [i for i in partial if joined[i]]:
        rows = parameters[position].shape[0]
        start = max(partial[position].start - axis.rank * rows, 0)
        if start >= rows:
            del partial[position]
        else:
            partial[position] = partial[position]._replace(start=start)
    own = OwnGradients(parameters, mesh, partial=partial, joined=joined, divides=level == 2, exchange=when)  # noqa: PLR2004
    divided = [a or b for a, b in zip(joined, own.divided, strict=True)]
    owned = tuple(
        (one.shape[0] // axis.size, *one.shape[1:]) if cut else tuple(one.shape)
        for one, cut in zip(parameters, own.divided, strict=True)
    )
    ends = CompleteSome(len(parameters), tied) if tied else None
    squares = SquareSum(shares_of_own_rows(shares, divided, axis), mesh, over_replicas=True)
    return Reduction(own, squares, **others, each=True, owned=owned, ends=ends)


def backward_order(names: Sequence[str], config: NetworkConfig) -> tuple[int, ...]:
    """Positions of parameters in the order in which a backward pass finishes their gradients: the last layer's first.

    The embedding comes last. What is of no layer and not at the ends is taken to be of all: it comes last too.
    """
    layers = FAMILIES.of(config).staged(config, (1,) * config.num_layers)  # each layer as a stage of its own
    first = [(layers.of(name)[0], position) for position, name in enumerate(names)]
    return tuple(position for _, position in sorted(first, reverse=True))


def divided_optimizer(
    build: Callable[[list[Parameter]], nn.Cell],
    parameters: Sequence[Parameter],
    mesh: Mesh,
    *,
    divide: bool,
    owns_gradients: bool = False,
) -> nn.Cell:
    """The optimizer of `build`, its state divided over the data ranks where `enable_parallel_optimizer` asks for it."""
    if divide and mesh.replicas.size > 1:
        return ShardedOptimizer(build, parameters, mesh.replicas, owns_gradients=owns_gradients)
    return build(list(parameters))
