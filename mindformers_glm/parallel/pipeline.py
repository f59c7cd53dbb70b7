"""A pipeline of stages: who computes which micro batch when, and how neighbours exchange hidden states.

On Ascend neighbours use Send and Receive. MindSpore 2.10 has neither on CPU (nor isend, irecv, nor AllGather or
Broadcast in a group of two): there a sum over the pair stands in, to which the receiver adds zeros, so that every byte
travels as in an all-reduce of two. The Ascend branch has not been run: no device was at hand.

1F1B: Narayanan et al., Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, 2021.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindformers_glm import runtime
from mindformers_glm.parallel.mesh import Axis

SCHEDULERS = ("1f1b", "gpipe")


class Neighbour:
    """The stage before or after this one on the `stage` axis: they exchange tensors of one shape and type."""

    def __init__(self, stage: Axis, other: int) -> None:
        low = min(stage.rank, other)
        pair = Axis("pair", (stage.ranks[low], stage.ranks[low + 1]), stage.rank - low)
        self._group, self._own = pair.group, pair.rank
        self._link: _Link = _AscendLink(pair) if runtime.device_target() == "Ascend" else _SummedLink(pair)

    def send(self, x: Tensor) -> None:
        """Gives x to the neighbour, which must be receiving."""
        self._link.send(x)

    def receive(self, shape: tuple[int, ...], dtype: ms.Type) -> Tensor:
        """What the neighbour sends."""
        return self._link.receive(shape, dtype)

    def swap(self, x: Tensor) -> Tensor:
        """Gives x and gets what the neighbour gives at the same moment, of the same shape and type."""
        return self._link.swap(x)


class _Link(Protocol):
    def send(self, x: Tensor) -> None: ...

    def receive(self, shape: tuple[int, ...], dtype: ms.Type) -> Tensor: ...

    def swap(self, x: Tensor) -> Tensor: ...


class _SummedLink:
    """Sums over a pair. Where a type has no sum on the CPU (bfloat16), it travels as float32."""

    def __init__(self, pair: Axis) -> None:
        self._reduce, self._own = ops.AllReduce(group=pair.group), pair.rank

    def send(self, x: Tensor) -> None:
        self._sum(x).asnumpy()  # waits

    def receive(self, shape: tuple[int, ...], dtype: ms.Type) -> Tensor:
        return self._sum(Tensor(np.zeros(shape, np.float32)).astype(dtype))

    def swap(self, x: Tensor) -> Tensor:
        zero = ops.zeros_like(x)
        both = self._sum(ops.stack((zero, x) if self._own else (x, zero)))
        return both[1 - self._own]

    def _sum(self, x: Tensor) -> Tensor:
        if x.dtype in (ms.float32, ms.float16):
            return self._reduce(x)
        return self._reduce(x.astype(ms.float32)).astype(x.dtype)


class _AscendLink:
    """Send and Receive; of a swap the lower rank sends first."""

    def __init__(self, pair: Axis) -> None:
        self._own, self._group = pair.rank, pair.group
        self._send = ops.Send(sr_tag=0, dest_rank=1 - pair.rank, group=pair.group)

    def send(self, x: Tensor) -> None:
        self._send(x)

    def receive(self, shape: tuple[int, ...], dtype: ms.Type) -> Tensor:
        take = ops.Receive(sr_tag=0, src_rank=1 - self._own, shape=list(shape), dtype=dtype, group=self._group)
        return take(Tensor(np.zeros(1, np.float32)))

    def swap(self, x: Tensor) -> Tensor:
        if self._own == 0:
            self.send(x)
            return self.receive(x.shape, x.dtype)
        got = self.receive(x.shape, x.dtype)
        self.send(x)
        return got


class Pipe:
    """Both neighbours of a stage; at the ends of the pipeline, where there is none, nothing is sent and None comes."""

    def __init__(self, stage: Axis) -> None:
        self.stage = stage
        self.before = Neighbour(stage, stage.rank - 1) if stage.rank else None  # the lower pair's group is made first
        self.after = Neighbour(stage, stage.rank + 1) if stage.rank + 1 < stage.size else None

    def pass_through(
        self, compute: Callable[[Tensor | None], Tensor], shape: tuple[int, ...], dtype: ms.Type
    ) -> Tensor:
        """One pass without gradient: takes hidden states of `shape`, computes, hands on; returns what was computed."""
        out = compute(None if self.before is None else self.before.receive(shape, dtype))
        if self.after is not None:
            self.after.send(out)
        return out

    def from_last(self, value: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """The last stage's float32 tensor on all stages; the others give None."""
        given = Tensor(np.zeros(shape, np.float32)) if value is None else value
        return ops.AllReduce(group=self.stage.group)(given)


Hidden: TypeAlias = "Tensor | None"
Forward: TypeAlias = Callable[[int, Hidden], Hidden]
Backward: TypeAlias = Callable[[int, Hidden, Hidden], Hidden]


def run(
    pipe: Pipe,
    count: int,
    forward: Forward,
    backward: Backward,
    *,
    shapes: list[tuple[int, ...]],
    dtype: ms.Type,
    scheduler: str = "1f1b",
) -> None:
    """One step of `count` micro batches, whose hidden states have `shapes`.

    `forward(i, x)` gives the hidden states of micro batch i for the next stage, `backward(i, x, dy)` the gradient of x
    from theirs. The first stage gets no x, the last no dy; the last one need do nothing in `forward`. At most as many
    x are kept as stages follow this one (1F1B), or all of them (GPipe).
    """
    line = _Line(pipe, shapes, dtype)
    ahead = count if scheduler == "gpipe" else min(pipe.stage.size - pipe.stage.rank - 1, count)
    kept: deque[Hidden] = deque()
    for i in range(ahead):
        kept.append(line.from_before(i))
        line.to_after(forward(i, kept[-1]))
    x = line.from_before(ahead) if ahead < count else None
    for i in range(count - ahead):
        y = forward(ahead + i, x)
        kept.append(x)
        dy = line.swap_after(y)
        dx = backward(i, kept.popleft(), dy)
        if i + 1 < count - ahead:
            x = line.swap_before(dx, ahead + i + 1)
        else:
            line.to_before(dx)
    for i in range(count - ahead, count):
        line.to_before(backward(i, kept.popleft(), line.from_after(i)))


class _Line:
    """The exchanges of a step, by micro batch."""

    def __init__(self, pipe: Pipe, shapes: list[tuple[int, ...]], dtype: ms.Type) -> None:
        self.pipe, self.shapes, self.dtype = pipe, shapes, dtype

    def from_before(self, i: int) -> Hidden:
        return None if self.pipe.before is None else self.pipe.before.receive(self.shapes[i], self.dtype)

    def from_after(self, i: int) -> Hidden:
        return None if self.pipe.after is None else self.pipe.after.receive(self.shapes[i], self.dtype)

    def to_before(self, dx: Hidden) -> None:
        if self.pipe.before is not None:
            self.pipe.before.send(dx)

    def to_after(self, y: Hidden) -> None:
        if self.pipe.after is not None:
            self.pipe.after.send(y)

    def swap_after(self, y: Hidden) -> Hidden:
        return None if self.pipe.after is None else self.pipe.after.swap(y)

    def swap_before(self, dx: Hidden, _: int) -> Hidden:
        return None if self.pipe.before is None else self.pipe.before.swap(dx)
