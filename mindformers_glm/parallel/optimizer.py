"""Optimizer state divided over the data ranks: each updates its rows of every weight, then the ranks exchange rows.

Rajbhandari et al., ZeRO, 2020, stage 1. MindSpore's `enable_parallel_optimizer` divides the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers_glm.parallel.collectives import gather_operator
from mindformers_glm.parallel.gradients import buckets
from mindformers_glm.parallel.mesh import Axis

_PREFIX = "rows_of."


def is_divided(shape: Sequence[int], ranks: int) -> bool:
    """True for a weight whose rows divide evenly; each rank keeps the whole state of any other."""
    return ranks > 1 and len(shape) > 0 and shape[0] % ranks == 0 and shape[0] > 0


class ShardedOptimizer(nn.Cell):
    """An optimizer whose state covers this data rank's rows only; called with whole gradients like any other.

    `build` makes the optimizer from parameters (in any order and grouping of its own). Its states keep the names they
    would have without division, `adam_m.<parameter>`, so that checkpoints differ in shape only. Updates are those of
    the undivided optimizer bit for bit as long as it works on each element alone. With `owns_gradients` it is given the
    rows of gradients that it updates (OwnGradients).
    """

    def __init__(
        self,
        build: Callable[[list[Parameter]], nn.Cell],
        parameters: Sequence[Parameter],
        axis: Axis,
        *,
        owns_gradients: bool = False,
    ):
        super().__init__(auto_prefix=False)
        self.owns_gradients = owns_gradients
        self.ranks, self.rank = axis.size, axis.rank
        held = [self._part(parameter) for parameter in parameters]
        whole = {id(part): parameter for part, parameter in zip(held, parameters, strict=True)}
        self.inner = build(held)
        self.parts = self.inner.parameters
        self.parameters = ParameterTuple([whole[id(part)] for part in self.parts])
        for state in self.inner.get_parameters():
            if id(state) not in whole:
                state.name = state.name.replace(_PREFIX, "", 1)
        self.divided = tuple(part is not full for part, full in zip(self.parts, self.parameters, strict=True))
        self.groups = tuple(
            tuple(positions)
            for positions in ([i for i in group if self.divided[i]] for group in buckets(self.parts))
            if positions
        )
        self.sizes = tuple(int(np.prod(part.shape)) for part in self.parts)
        self.rows = tuple(part.shape[0] if part.shape else 1 for part in self.parts)
        self.shapes = tuple(tuple(parameter.shape) for parameter in self.parameters)
        self.count = len(self.divided)
        self.gather = gather_operator(axis)

    @property
    def learning_rate(self) -> Parameter:
        """The rate that the trainer assigns before each step."""
        return self.inner.learning_rate

    def construct(self, grads: tuple[Tensor, ...]) -> Tensor:
        """Updates every parameter from whole gradients in the order of `parameters`; returns the inner result."""
        own: tuple[Tensor, ...] = ()
        for i in range(self.count):
            own += (self.own_rows(grads[i], i) if self.divided[i] and not self.owns_gradients else grads[i],)
            if self.divided[i]:
                ops.assign(self.parts[i], self.own_rows(self.parameters[i], i))
        result = self.inner(own)
        for group in self.groups:
            self.exchange(group)
        return result

    def own_rows(self, x: Tensor, i: int) -> Tensor:
        """Rows of a whole tensor that this rank updates."""
        return x[self.rank * self.rows[i] : (self.rank + 1) * self.rows[i]]

    def exchange(self, group: tuple[int, ...]) -> None:
        """Every rank's new rows of these parameters, into the whole parameters."""
        flat: tuple[Tensor, ...] = ()
        for i in group:
            flat += (self.parts[i].reshape(-1),)
        everybody, start = self.gather(ops.concat(flat)).reshape(self.ranks, -1), 0
        for i in group:
            ops.assign(self.parameters[i], everybody[:, start : start + self.sizes[i]].reshape(self.shapes[i]))
            start += self.sizes[i]

    def _part(self, parameter: Parameter) -> Parameter:
        if not is_divided(parameter.shape, self.ranks):
            return parameter
        rows = parameter.shape[0] // self.ranks
        value = parameter.asnumpy()[self.rank * rows : (self.rank + 1) * rows].copy()
        return Parameter(Tensor(value, parameter.dtype), name=_PREFIX + parameter.name, requires_grad=False)
