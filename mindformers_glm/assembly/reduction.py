"""What the ranks of a grid do together in a training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mindspore import Parameter, nn

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.parallelize import partial_gradients, square_shares
from mindformers_glm.parallel.collectives import ReduceFromRanks
from mindformers_glm.parallel.gradients import GradientSum, SquareSum
from mindformers_glm.parallel.mesh import Axis, Mesh
from mindformers_glm.parallel.optimizer import ShardedOptimizer


class Reduction(NamedTuple):
    """What ranks do together. The default is one process alone.

    `gradients` adds gradients up over the data ranks; `squared_norm` is their sum of squares with each weight counted
    once; `labels` adds a count up over the data ranks; `everyone` adds a flag up over all ranks.
    """

    gradients: nn.Cell | None = None
    squared_norm: nn.Cell | None = None
    labels: nn.Cell | None = None
    everyone: nn.Cell | None = None


def reduction_of(parameters: Sequence[Parameter], config: ChatGLM2Config, mesh: Mesh) -> Reduction:
    """The exchanges of a step that trains `parameters` (in the optimizer's order) of the whole network `config`."""
    if mesh.size == 1:
        return Reduction()
    parameters = list(parameters)
    everybody = Axis("all", tuple(range(mesh.size)), mesh.rank)
    return Reduction(
        gradients=GradientSum(parameters, mesh, partial=partial_gradients(parameters, config, mesh)),
        squared_norm=SquareSum(square_shares(parameters, config, mesh), mesh),
        labels=ReduceFromRanks(mesh.data) if mesh.data.size > 1 else None,
        everyone=ReduceFromRanks(everybody),
    )


def divided_optimizer(
    build: Callable[[list[Parameter]], nn.Cell], parameters: Sequence[Parameter], mesh: Mesh, *, divide: bool
) -> nn.Cell:
    """The optimizer of `build`, its state divided over the data ranks where `enable_parallel_optimizer` asks for it."""
    if divide and mesh.data.size > 1:
        return ShardedOptimizer(build, parameters, mesh.data)
    return build(list(parameters))
