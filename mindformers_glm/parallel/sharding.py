"""Weights and gradients of which every replica keeps its own rows (ZeRO 2 and 3; FSDP's shard_grad_op, full_shard).

Rajbhandari et al., ZeRO, 2020. A divided weight is joined where it is used and given up again: the matmul of a linear
layer joins it once more in its backward pass, and hands its gradient to the owners of the rows. MCCL has no
ReduceScatter: on CPU it is a sum of which each rank takes its rows, so that bytes are those of an all-reduce there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.ops.linear import Matmul
from mindformers_glm.parallel.collectives import gather_operator
from mindformers_glm.parallel.gradients import Complete, Exchange, after_all, buckets
from mindformers_glm.parallel.mesh import Axis, Mesh
from mindformers_glm.parallel.optimizer import is_divided

_matmul, _matmul_left = ops.MatMul(), ops.MatMul(transpose_a=True)


class ScatterSum(nn.Cell):
    """The ranks' tensors added up, of which each takes its rows: (n * ranks, ...) -> (n, ...). No gradient."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.ranks, self.rank, self.whole = axis.size, axis.rank, runtime.device_target() != "Ascend"
        self.reduce = ops.AllReduce(group=axis.group) if self.whole else ops.ReduceScatter(group=axis.group)

    def construct(self, x: Tensor) -> Tensor:
        """See the class."""
        if not self.whole:
            return self.reduce(x)
        rows = x.shape[0] // self.ranks
        return self.reduce(x)[self.rank * rows : (self.rank + 1) * rows]


class JoinRows(nn.Cell):
    """The whole weight from its rows: (n, ...) -> (n * ranks, ...); backward, own rows of the summed gradient."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.gather, self.scatter = gather_operator(axis), ScatterSum(axis)

    def construct(self, rows: Tensor) -> Tensor:
        """See the class."""
        return self.gather(rows)

    def bprop(self, rows: Tensor, out: Tensor, grad: Tensor) -> tuple[Tensor]:
        """See the class."""
        return (self.scatter(grad),)


class SplitSum(nn.Cell):
    """The ranks' rows added up, own ones kept: (n * ranks, ...) -> (n, ...); backward, the gradient of all rows."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.gather, self.scatter = gather_operator(axis), ScatterSum(axis)

    def construct(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.scatter(x)

    def bprop(self, x: Tensor, out: Tensor, grad: Tensor) -> tuple[Tensor]:
        """See the class."""
        return (self.gather(grad),)


class JoinTokens(nn.Cell):
    """Keys or values of a whole sequence from those of its parts: (B, K, T, E) -> (B, K, ranks * T, E)."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.join = JoinRows(axis)

    def construct(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.join(x.transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3)


class OwnTokens(nn.Cell):
    """The part of a sequence that this rank works on: (..., T) -> (..., T / ranks)."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.ranks, self.rank = axis.size, axis.rank

    def construct(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens = x.shape[-1] // self.ranks
        return x[..., self.rank * tokens : (self.rank + 1) * tokens]


class Switched(nn.Cell):
    """One exchange while training, another one otherwise: the tokens of a prompt do not always divide."""

    def __init__(self, training: nn.Cell, otherwise: nn.Cell):
        super().__init__()
        self.of_training, self.otherwise = training, otherwise

    def construct(self, x: Tensor) -> Tensor:
        """What the exchange in force gives."""
        return self.of_training(x) if self.training else self.otherwise(x)


class JoinedMatmul(nn.Cell):
    """`Matmul` with a weight of which this rank holds its rows."""

    def __init__(self, matmul: Matmul, axis: Axis, *, frozen: bool, biased: bool, remembers: bool):
        super().__init__()
        self.matmul, self.remembers = matmul, remembers
        self.join = JoinRows(axis)
        self.once = (_JoinedBiased if biased else _JoinedPlain)(axis, frozen=frozen)

    def construct(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rows (N, in) of the batch, this rank's rows (out / ranks, in) of the weight, bias (out,) -> (N, out)."""
        if self.remembers:  # in a layer that is recomputed as a whole: what it joins is forgotten with the rest
            return self.matmul(x, self.join(rows), bias)
        if bias is None:
            return self.once(x, rows)
        return self.once(x, rows, bias)


class _Joined(nn.Cell):
    """Base of x W^T and x W^T + b, where W is joined anew for the backward pass and not kept."""

    def __init__(self, axis: Axis, *, frozen: bool):
        super().__init__()
        self.frozen = frozen
        self.gather, self.scatter = gather_operator(axis), ScatterSum(axis)
        self.forward_product = ops.MatMul(transpose_b=True)

    def of_x(self, rows: Tensor, dout: Tensor) -> Tensor:
        return _matmul(dout, ops.cast(self.gather(ops.depend(rows, dout)), dout.dtype))

    def of_rows(self, x: Tensor, rows: Tensor, dout: Tensor) -> Tensor:
        if self.frozen:
            return ops.zeros_like(rows)
        return self.scatter(ops.cast(_matmul_left(dout, x), rows.dtype))


class _JoinedPlain(_Joined):
    def construct(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.forward_product(x, ops.cast(self.gather(rows), x.dtype))

    def bprop(self, x: Tensor, rows: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return self.of_x(rows, dout), self.of_rows(x, rows, dout)


class _JoinedBiased(_Joined):
    def construct(self, x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        return self.forward_product(x, ops.cast(self.gather(rows), x.dtype)) + ops.cast(bias, x.dtype)

    def bprop(self, x: Tensor, rows: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        of_bias = ops.cast(dout, ms.float32).sum(0).astype(bias.dtype)
        return self.of_x(rows, dout), self.of_rows(x, rows, dout), of_bias


class JoinedTable(nn.Cell):
    """An embedding, or the part of one, whose table is divided over replicas: joined for each batch."""

    def __init__(self, embedding: nn.Cell, axis: Axis):
        super().__init__()
        self.embedding_table, self.dtype = embedding.embedding_table, embedding.dtype
        self.join = JoinRows(axis)

    def construct(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> rows (N, D)."""
        return ops.cast(ops.gather(self.join(self.embedding_table), input_ids.reshape(-1), 0), self.dtype)


def own_rows(parameter: Parameter, axis: Axis) -> Parameter:
    """A parameter of the same name with this rank's rows."""
    rows = parameter.shape[0] // axis.size
    value = parameter.asnumpy()[axis.rank * rows : (axis.rank + 1) * rows].copy()
    part = Parameter(Tensor(value, parameter.dtype), name=parameter.name, requires_grad=parameter.requires_grad)
    part.rows_of_replica = axis.rank
    return part


def is_own_rows(parameter: Parameter) -> bool:
    """True for what `own_rows` made."""
    return hasattr(parameter, "rows_of_replica")


class OwnGradients(nn.Cell):
    """Gradients added up over the replicas, of which this rank keeps the rows that it updates (ZeRO 2).

    A parameter whose rows do not divide is summed whole, and so are all without `divides`. `joined` says which
    gradients are those of own rows already (ZeRO 3: JoinRows has summed them). `exchange` says when sums begin.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        mesh: Mesh,
        *,
        partial: Mapping[int, Any] | None = None,
        joined: Sequence[bool] = (),
        divides: bool = True,
        exchange: Exchange | None = None,
    ):
        super().__init__()
        partial, axis, exchange = partial or {}, mesh.replicas, exchange or Exchange()
        self.starts = tuple(partial[i].start if i in partial else -1 for i in range(len(parameters)))
        self.completions = nn.CellList([Complete(partial[i].axis) for i in sorted(partial)])
        self.joined = tuple(joined) or (False,) * len(parameters)
        self.divided = tuple(
            divides and not done and is_divided(one.shape, axis.size)
            for one, done in zip(parameters, self.joined, strict=True)
        )
        order = exchange.order or range(len(parameters))
        self.scattered = tuple(i for i in order if self.divided[i])
        small = [i for i in order if not self.joined[i] and not self.divided[i]]
        groups = buckets([parameters[i] for i in small], exchange.bucket_bytes)
        self.groups = tuple(tuple(small[i] for i in group) for group in groups)
        laid = [*self.scattered, *(i for group in self.groups for i in group)]
        self.places = tuple(laid.index(i) if i in laid else -1 for i in range(len(parameters)))
        self.waits = not exchange.overlap
        self.shapes = tuple(tuple(parameter.shape) for parameter in parameters)
        self.sizes = tuple(int(np.prod(shape)) for shape in self.shapes)
        self.reduce, self.scatter = ops.AllReduce(group=axis.group), ScatterSum(axis)

    def construct(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """As many gradients: own rows of divided parameters, all of the others."""
        whole: tuple[Tensor, ...] = ()
        used = 0
        for i in range(len(self.starts)):
            grad = grads[i]
            if self.starts[i] >= 0:
                grad = self.completions[used](grad, self.starts[i])
                used += 1
            whole += (grad,)
        given = after_all(whole) if self.waits else whole
        summed: tuple[Tensor, ...] = ()
        for i in self.scattered:
            summed += (self.scatter(given[i]),)
        summed += self.small(given)
        found: tuple[Tensor, ...] = ()
        for i in range(len(self.starts)):
            found += (whole[i] if self.joined[i] else summed[self.places[i]],)
        return found

    def small(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The sums of what is not divided, in the order of the groups, many in one exchange."""
        parts: tuple[Tensor, ...] = ()
        for group in self.groups:
            flat: tuple[Tensor, ...] = ()
            for position in group:
                flat += (grads[position].reshape(-1),)
            whole, start = self.reduce(ops.concat(flat)), 0
            for position in group:
                parts += (whole[start : start + self.sizes[position]].reshape(self.shapes[position]),)
                start += self.sizes[position]
        return parts


def shares_of_own_rows(
    shares: Sequence[float | np.ndarray], divided: Sequence[bool], axis: Axis, *, rows_are_own: bool = False
) -> list[float | np.ndarray]:
    """`shares` of SquareSum for gradients of which replicas hold rows: what they hold alike counts once.

    With `rows_are_own` a share that differs by row is for this rank's rows already.
    """
    found: list[float | np.ndarray] = []
    for share, own in zip(shares, divided, strict=True):
        if not own:
            found.append(share / axis.size)
        elif isinstance(share, float) or np.ndim(share) == 0 or rows_are_own:
            found.append(share)
        else:
            rows = len(share) // axis.size
            found.append(share[axis.rank * rows : (axis.rank + 1) * rows])
    return found
