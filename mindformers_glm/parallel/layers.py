"""Layers and the loss of a network cut over tensor ranks. Shapes: N rows, D hidden, V vocabulary of the whole network.

Shoeybi et al., Megatron-LM, 2019: first cut by rows, then by columns, one sum forward and one backward.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.labels import COUNT_EPSILON, IGNORED
from mindformers_glm.parallel.collectives import CopyToRanks, GatherFromRanks, ReduceFromRanks, StackFromRanks
from mindformers_glm.parallel.mesh import Axis

_sum, _max = ops.ReduceSum(), ops.ReduceMax()


class ColumnParallel(nn.Cell):
    """A linear layer that holds some of the rows of its weight: input whole, output the rank's own channels."""

    def __init__(self, layer: nn.Cell, axis: Axis):
        super().__init__()
        self.layer, self.enter = layer, CopyToRanks(axis)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, in) -> (N, out / ranks)."""
        return self.layer(self.enter(x))


class RowParallel(nn.Cell):
    """A linear layer that holds some of the columns of its weight: input the rank's channels, output whole.

    A bias is held by every rank and added once, after the sum.
    """

    def __init__(self, layer: nn.Cell, axis: Axis):
        super().__init__()
        self.bias = layer.bias
        if layer.bias is not None:
            del layer.bias
            layer.bias = None
        self.layer, self.leave = layer, ReduceFromRanks(axis)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, in / ranks) -> (N, out)."""
        y = self.leave(self.layer(x))
        return y if self.bias is None else y + ops.cast(self.bias, y.dtype)


class VocabParallelEmbedding(nn.Cell):
    """The token embedding, with the rows of its table divided among ranks."""

    def __init__(self, table: Parameter, axis: Axis, *, dtype: ms.dtype):
        super().__init__()
        self.embedding_table = table
        self.rows, self.first, self.dtype = table.shape[0], table.shape[0] * axis.rank, dtype
        self.join: nn.Cell | None = None  # where replicas hold rows of the table (sharding.py)
        self.leave = ReduceFromRanks(axis)

    def construct(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> rows (N, D), whole on every rank."""
        local = input_ids.reshape(-1) - self.first
        mine = ops.logical_and(local >= 0, local < self.rows)
        table = self.embedding_table if self.join is None else self.join(self.embedding_table)
        found = ops.cast(ops.gather(table, local * ops.cast(mine, ms.int32), 0), self.dtype)
        return self.leave(found * ops.cast(mine, self.dtype).reshape(-1, 1))


class ShareOfLoss(nn.Cell):
    """The mean over the labels of one data rank, made that over the labels of all: see ParallelCrossEntropy."""

    def __init__(self, data: Axis):
        super().__init__()
        self.over_data = ReduceFromRanks(data)

    def construct(self, loss: Tensor, labels: Tensor) -> Tensor:
        """The rank's mean loss (), its labels (...) -> the mean () of all ranks."""
        count = _sum(ops.cast(labels != IGNORED, ms.float32))
        total = ops.stop_gradient(self.over_data(count))
        return self.over_data(loss * ((count + COUNT_EPSILON) / (total + COUNT_EPSILON)))


class ParallelHead(nn.Cell):
    """The output layer over a divided vocabulary: a rank's logits while training, all of them otherwise."""

    is_plain = False  # its weight is a part: no operator may use it directly

    def __init__(self, layer: nn.Cell, axis: Axis):
        super().__init__()
        self.layer, self.enter, self.join = layer, CopyToRanks(axis), GatherFromRanks(axis)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, D) -> (N, V / ranks) or (N, V)."""
        logits = self.layer(self.enter(x))
        return logits if self.training else self.join(logits)


class ParallelCrossEntropy(nn.Cell):
    """Mean over the whole job of -log softmax(logits)[label], with the vocabulary over `tensor`, the batch over `data`.

    Equal to the loss of one process with everything in one batch: the divisor counts the labels of all data ranks
    (+ COUNT_EPSILON), so the gradients of the data ranks are to be added up and not averaged.
    """

    def __init__(self, tensor: Axis, data: Axis):
        super().__init__()
        self.tensor_ranks, self.tensor_rank = tensor.size, tensor.rank
        self.tops = StackFromRanks(tensor) if tensor.size > 1 else None
        self.over_classes = ReduceFromRanks(tensor) if tensor.size > 1 else nn.Identity()
        self.over_data = ReduceFromRanks(data) if data.size > 1 else nn.Identity()
        self.smoothing = 0.0  # of labels, in training alone: see ops/cross_entropy.py

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits of ParallelHead, of any float type, labels (N,) int32, -100 not learned -> a float32 scalar."""
        if self.tops is not None and not self.training:
            classes = logits.shape[-1] // self.tensor_ranks
            logits = logits[:, classes * self.tensor_rank : classes * (self.tensor_rank + 1)]
        kept = labels != IGNORED
        weight = ops.cast(kept, ms.float32)
        weight = weight / (ops.stop_gradient(self.over_data(_sum(weight))) + COUNT_EPSILON)
        target = ops.cast(kept, ms.int32) * labels
        return -self.over_data(_sum(self.log_probability(ops.cast(logits, ms.float32), target) * weight))

    def log_probability(self, logits: Tensor, target: Tensor) -> Tensor:
        """Log of the softmax at `target`, in training smoothed over all classes: (N, V / ranks), (N,) -> (N,)."""
        smoothing = self.smoothing if self.training else 0.0
        if self.tops is None:
            logs = ops.log_softmax(logits, -1)
            found = ops.gather_elements(logs, 1, target.reshape(-1, 1)).reshape(-1)
            return found if smoothing == 0 else (1 - smoothing) * found + smoothing * logs.mean(-1)
        classes = logits.shape[-1]
        top = ops.stop_gradient(_max(self.tops(_max(ops.stop_gradient(logits), -1)), 0))
        shifted = logits - top.reshape(-1, 1)
        local = target - classes * self.tensor_rank
        mine = ops.logical_and(local >= 0, local < classes)
        picked = ops.gather_elements(shifted, 1, (local * ops.cast(mine, ms.int32)).reshape(-1, 1)).reshape(-1)
        picked, total = picked * ops.cast(mine, ms.float32), _sum(ops.exp(shifted), -1)
        if smoothing == 0:
            both = self.over_classes(ops.stack((picked, total)))
            return both[0] - ops.log(both[1])
        mean = _sum(shifted, -1) / (classes * self.tensor_ranks)
        three = self.over_classes(ops.stack((picked, total, mean)))
        return (1 - smoothing) * three[0] + smoothing * three[2] - ops.log(three[1])
