"""Gradients that belong to several ranks: added up over data ranks, and measured over tensor ranks.

A backward pass finishes the gradients of the last layers first, and so buckets are filled in that order. Each sum takes
its own bucket alone: a device that sends beside computing can begin it while earlier layers are still computed
(Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training, 2020). Without overlap every sum
also depends on all gradients. The sums themselves are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.parallel.mesh import Axis, Mesh

BUCKET_BYTES = 32 * 1024 * 1024


def buckets(
    parameters: Sequence[Parameter], limit: int = BUCKET_BYTES, *, order: Sequence[int] | None = None
) -> list[list[int]]:
    """Positions of parameters that travel together: of one type, up to `limit` bytes, filled in `order`.

    Buckets come in the order in which the last of each is ready.
    """
    order = range(len(parameters)) if order is None else order
    groups: list[list[int]] = []
    filling: dict[Any, tuple[list[int], int]] = {}  # by type: a bucket and its bytes
    for position in order:
        parameter = parameters[position]
        size = parameter.size * parameter.itemsize
        group, used = filling.get(parameter.dtype, ([], limit))
        if used + size > limit:
            group, used = [], 0
            groups.append(group)
        group.append(position)
        filling[parameter.dtype] = (group, used + size)
    ready = {position: turn for turn, position in enumerate(order)}
    return sorted(groups, key=lambda group: ready[group[-1]])


def in_place_of(groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The place of each position once the groups are laid end to end."""
    laid = [position for group in groups for position in group]
    return tuple(laid.index(position) for position in sorted(laid))


class Complete(nn.Cell):
    """Rows from `start` on added up over ranks."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.reduce = ops.AllReduce(group=axis.group)

    def construct(self, grad: Tensor, start: int) -> Tensor:
        """The gradient (rows, ...), complete."""
        if start == 0:
            return self.reduce(grad)
        return ops.concat((grad[:start], self.reduce(grad[start:])))


class CompleteSome(nn.Cell):
    """Some gradients added up over the ranks that each have a part of them, at the end of a step."""

    def __init__(self, count: int, partial: Mapping[int, Any]):
        super().__init__()
        self.count, self.positions = count, tuple(sorted(partial))
        self.completions = nn.CellList([Complete(partial[i].axis) for i in self.positions])

    def construct(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """As many gradients."""
        found: tuple[Tensor, ...] = ()
        for i in range(self.count):
            if i in self.positions:
                found += (self.completions[self.positions.index(i)](grads[i], 0),)
            else:
                found += (grads[i],)
        return found


class Exchange(NamedTuple):
    """When sums of gradients begin: with `overlap` each as soon as its bucket is full, else after the backward pass.

    `order`: positions of the parameters as the backward pass finishes them (that of the parameters without it).
    """

    overlap: bool = True
    order: tuple[int, ...] | None = None
    bucket_bytes: int = BUCKET_BYTES


def after_all(grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same gradients, each of which waits for all."""
    found: tuple[Tensor, ...] = ()
    for grad in grads:
        found += (ops.depend(grad, grads),)
    return found


class GradientSum(nn.Cell):
    """Adds gradients up over the data ranks, many small tensors in one exchange.

    The loss of a data rank is divided by the labels of all (ParallelCrossEntropy), so the sum is the gradient of the
    mean over the whole job. `partial` says which parameters' gradients must be completed over tensor ranks first:
    position -> (axis, first row), as models/glm/parallelize.py finds them. `exchange` says when sums begin.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        mesh: Mesh,
        *,
        partial: Mapping[int, Any] | None = None,
        exchange: Exchange | None = None,
    ):
        super().__init__()
        exchange = exchange or Exchange()
        partial = partial or {}
        self.starts = tuple(partial[i].start if i in partial else -1 for i in range(len(parameters)))
        self.completions = nn.CellList([Complete(partial[i].axis) for i in sorted(partial)])
        self.alone = mesh.replicas.size == 1
        groups = buckets(parameters, exchange.bucket_bytes, order=exchange.order)
        self.groups, self.places = tuple(tuple(group) for group in groups), in_place_of(groups)
        self.waits = not exchange.overlap
        self.shapes = tuple(tuple(parameter.shape) for parameter in parameters)
        self.sizes = tuple(int(np.prod(shape)) for shape in self.shapes)
        self.reduce: Any = None if self.alone else ops.AllReduce(group=mesh.replicas.group)

    def construct(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """As many gradients, each complete and the sum over the data ranks."""
        grads = self.complete(grads)
        if self.alone:
            return grads
        if self.waits:
            grads = after_all(grads)
        summed: tuple[Tensor, ...] = ()
        for group in self.groups:
            if len(group) == 1:
                summed += (self.reduce(grads[group[0]]),)
            else:
                summed += self.together(grads, group)
        found: tuple[Tensor, ...] = ()
        for place in self.places:
            found += (summed[place],)
        return found

    def complete(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients of shared rows, added up over the tensor ranks that share them."""
        whole: tuple[Tensor, ...] = ()
        used = 0
        for i in range(len(self.starts)):
            if self.starts[i] < 0:
                whole += (grads[i],)
            else:
                whole += (self.completions[used](grads[i], self.starts[i]),)
                used += 1
        return whole

    def together(self, grads: tuple[Tensor, ...], group: tuple[int, ...]) -> tuple[Tensor, ...]:
        """One bucket: joined, exchanged, taken apart."""
        flat: tuple[Tensor, ...] = ()
        for position in group:
            flat += (grads[position].reshape(-1),)
        parts: tuple[Tensor, ...] = ()
        whole, start = self.reduce(ops.concat(flat)), 0
        for position in group:
            parts += (whole[start : start + self.sizes[position]].reshape(self.shapes[position]),)
            start += self.sizes[position]
        return parts


class SquareSum(nn.Cell):
    """Sum of squares of all gradients of the whole network, equal on every rank: what clipping by norm needs.

    A weight that tensor ranks hold in parts counts the parts of all; one that they hold alike counts once. Stages of a
    pipeline hold weights of their own, except for a table that is tied to the output layer.
    `shares` gives for each parameter how much of its square this rank counts, 1 / (ranks that hold the same),
    as one number, or as one number for each row where rows differ.
    """

    def __init__(self, shares: Sequence[float | np.ndarray], mesh: Mesh, *, over_replicas: bool = False):
        super().__init__()
        axis = mesh.everybody if over_replicas else mesh.model  # replicas that hold rows of gradients count theirs
        self.reduce = ops.AllReduce(group=axis.group) if axis.size > 1 else nn.Identity()
        self.shares = tuple(Tensor(np.asarray(share, np.float32)) for share in shares)

    def construct(self, grads: tuple[Tensor, ...]) -> Tensor:
        """Gradients in the order of the parameters -> a float32 scalar."""
        total = ops.zeros((), ms.float32)
        for i in range(len(self.shares)):
            square = ops.square(ops.cast(grads[i], ms.float32)).reshape(grads[i].shape[0], -1).sum(-1)
            total = total + (square * self.shares[i]).sum()
        return self.reduce(total)
