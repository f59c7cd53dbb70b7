"""How ranks exchange tensors inside a differentiable graph: Cells whose backward pass is the matching exchange.

On CPU (MCCL) only a sum works for every group, in float32 and float16. What else is needed is made from it in one
place, `gather_operator`; Ascend has the real operator there. That branch has not been run: no device was at hand.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.parallel.mesh import Axis

_PACKET, _WORD = 512, 1 << 16  # numbers in the first packet of broadcast_bytes; values of one
_PIECE = 1 << 22  # bytes of each rank that gather_bytes sends at a time


class CopyToRanks(nn.Cell):
    """Identity forward, sum backward: what enters a layer cut by rows."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.reduce = ops.AllReduce(group=axis.group)

    def construct(self, x: Tensor) -> Tensor:
        """The same x on every rank."""
        return x

    def bprop(self, x: Tensor, out: Tensor, grad: Tensor) -> tuple[Tensor]:
        """The ranks' gradients added up."""
        return (self.reduce(grad),)


class ReduceFromRanks(nn.Cell):
    """Sum forward, identity backward: what leaves a layer cut by columns."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.reduce = ops.AllReduce(group=axis.group)

    def construct(self, x: Tensor) -> Tensor:
        """The ranks' x added up."""
        return self.reduce(x)

    def bprop(self, x: Tensor, out: Tensor, grad: Tensor) -> tuple[Tensor]:
        """The gradient, equal on every rank."""
        return (grad,)


class StackFromRanks(nn.Cell):
    """The ranks' x in order, stacked along a new first axis: (...) -> (ranks, ...)."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.ranks, self.rank = axis.size, axis.rank
        self.gather = gather_operator(axis)

    def construct(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.gather(x.expand_dims(0))

    def bprop(self, x: Tensor, out: Tensor, grad: Tensor) -> tuple[Tensor]:
        """The own part of a gradient that is equal on every rank."""
        return (grad[self.rank],)


class GatherFromRanks(nn.Cell):
    """The ranks' last axes joined, slice backward: (..., n) -> (..., ranks * n), for results that users see."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.stack = StackFromRanks(axis)

    def construct(self, x: Tensor) -> Tensor:
        """See the class."""
        parts = ops.moveaxis(self.stack(x), 0, -2)
        return parts.reshape(*x.shape[:-1], -1)


class PaddedSum(nn.Cell):
    """Rows joined over ranks, on devices without AllGather for every group: zeros elsewhere, then a sum."""

    def __init__(self, axis: Axis):
        super().__init__()
        self.ranks, self.rank = axis.size, axis.rank
        self.place = Tensor(np.eye(axis.size, dtype=np.float32)[axis.rank])
        self.reduce = ops.AllReduce(group=axis.group)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (n, ...) -> (ranks * n, ...)."""
        place = ops.cast(self.place, x.dtype).reshape(-1, *([1] * len(x.shape)))
        return self.reduce(x.expand_dims(0) * place).reshape(-1, *x.shape[1:])


def gather_operator(axis: Axis) -> nn.Cell | ops.Primitive:
    """What joins the first axes of the ranks' tensors: (n, ...) -> (ranks * n, ...). No gradient."""
    if runtime.device_target() == "Ascend":
        return ops.AllGather(group=axis.group)
    return PaddedSum(axis)


def sum_over(axis: Axis, value: np.ndarray) -> np.ndarray:
    """A small host array added up over the ranks, outside any graph: counts, flags, metrics (float32 precision)."""
    if axis.size == 1:
        return value
    return ops.AllReduce(group=axis.group)(Tensor(value, ms.float32)).asnumpy()


def gather_bytes(axis: Axis, data: bytes) -> list[bytes]:
    """What every rank gives, in order, on every rank: metrics and predictions, outside any graph.

    It travels in pieces of a fixed size, so that neither memory nor what float32 can count sets a limit.
    """
    if axis.size == 1:
        return [data]
    gather, lengths = StackFromRanks(axis), np.zeros((axis.size, 2), np.float32)
    lengths[axis.rank] = len(data) % _WORD, len(data) // _WORD
    counts = [int(low) + int(high) * _WORD for low, high in sum_over(axis, lengths)]
    pieces: list[list[bytes]] = [[] for _ in counts]
    for begin in range(0, max(counts), _PIECE):
        padded = np.zeros(min(max(counts) - begin, _PIECE), np.float32)
        own = np.frombuffer(data[begin : begin + _PIECE], np.uint8)
        padded[: len(own)] = own
        rows = gather(Tensor(padded)).asnumpy().astype(np.uint8)
        for row, count, found in zip(rows, counts, pieces, strict=True):
            found.append(row[: max(count - begin, 0)].tobytes())
    return [b"".join(found) for found in pieces]


def broadcast_bytes(axis: Axis, data: bytes | None) -> bytes:
    """What rank 0 of the axis gives, on every rank; the others give None. Outside any graph.

    Two bytes travel as one whole number in float32, which a sum with zeros keeps: the length and the beginning in a
    packet of fixed size, and what is longer in a second one.
    """
    if axis.size == 1:
        return data or b""
    reduce = ops.AllReduce(group=axis.group)
    rest, packet = np.zeros(0, np.float32), np.zeros(_PACKET, np.float32)
    if axis.rank == 0:
        data = data or b""
        words = _words(data)
        packet[:2] = len(data) % _WORD, len(data) // _WORD
        packet[2 : 2 + min(len(words), _PACKET - 2)] = words[: _PACKET - 2]
        rest = words[_PACKET - 2 :]
    packet = reduce(Tensor(packet)).asnumpy()
    length = int(packet[0]) + int(packet[1]) * _WORD
    got, missing = packet[2:], (length + 1) // 2 - (_PACKET - 2)
    if missing > 0:
        second = np.zeros(1 << (missing - 1).bit_length(), np.float32)  # few sizes: each is compiled once
        second[: len(rest)] = rest if axis.rank == 0 else 0
        got = np.concatenate([got, reduce(Tensor(second)).asnumpy()])
    return got.astype(np.uint16).tobytes()[:length]


def _words(data: bytes) -> np.ndarray:
    return np.frombuffer(data + b"\0" * (len(data) % 2), np.uint16).astype(np.float32)
