"""Cross entropy of next tokens over a large vocabulary. Shapes: N tokens, D hidden, V vocabulary."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_glm.labels import COUNT_EPSILON, IGNORED
from mindformers_glm.ops.kernels.operators import Chosen, operator

CHUNK_LOGITS = 2**25

_times, _forward, _back = ops.MatMul(transpose_b=True), ops.MatMul(), ops.MatMul(transpose_a=True)
_sum, _mean, _highest = ops.ReduceSum(), ops.ReduceMean(keep_dims=True), ops.ArgMaxWithValue(axis=-1)


class CrossEntropy(nn.Cell):
    """Mean of -log softmax(logits)[label] over labels that are not -100: a float32 scalar, 0 where none is left.

    The divisor is count + COUNT_EPSILON. In training, with `smoothing` s, a token's loss is (1 - s) times that plus
    s times the mean of -log softmax over the vocabulary (Szegedy et al. 2016; torch's label_smoothing).
    """

    def __init__(self, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.weighted = _Weighted(0.0)
        self.smoothed = _Weighted(smoothing) if smoothing else self.weighted

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, V) of any float type, labels (N,) int32 -> a scalar."""
        target, share = _targets(labels)
        if self.training:
            return self.smoothed(ops.cast(logits, ms.float32), target, share)[0]
        return self.weighted(ops.cast(logits, ms.float32), target, share)[0]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`CrossEntropy` as a function: logits (N, V), labels (N,) -> a scalar."""
    return _cross_entropy(logits, labels)


class HeadCrossEntropy(Chosen):
    """`CrossEntropy` of the logits hidden W^T, which are never in memory all at once.

    Tokens are taken in chunks of about 32 M logits. The gradients of a chunk are computed while its probabilities are
    in memory: 3 matmuls as usual, and memory for one chunk in place of three times N x V. Where no gradient is needed,
    graph mode leaves two of the matmuls out; in PyNative mode use `CrossEntropy` then. `frozen`: the gradient of the
    weight will not be needed (it would be correct, but slow). `rounded`: see ops/linear.py. `smoothing` is used outside
    of training too.
    """

    def __init__(self, *, frozen: bool = False, rounded: bool = False, smoothing: float = 0.0) -> None:
        super().__init__(lambda: (_FrozenHeadKernel if frozen else _HeadKernel)("Half" if rounded else "", smoothing))
        self.weighted = _WeightedHead(smoothing)

    def construct(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """`hidden` (N, D), weight (V, D), labels (N,) int32 -> a scalar."""
        target, share = _targets(labels)
        weight = ops.cast(weight, hidden.dtype)
        if self.kernel_fits(hidden):
            return self.kernel(hidden, weight, target, share)[0].reshape(())
        return self.weighted(hidden, weight, target, share)[0]


class _HeadKernel(nn.Cell):
    """Returns the loss and its gradients, which `bprop` only multiplies by the incoming gradient."""

    def __init__(self, kind: str, smoothing: float) -> None:
        super().__init__()
        self.more = (Tensor([smoothing], ms.float32),) if smoothing else ()
        self.forward = operator(
            f"Glm{'Smooth' if smoothing else ''}HeadLoss{kind}",
            lambda x, w, target, share, *more: ((1,), x, w),
            (ms.float32, ms.float32, ms.float32),
        )

    def construct(self, hidden: Tensor, weight: Tensor, target: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.forward(hidden, weight, target, share, *self.more)

    def bprop(
        self, hidden: Tensor, weight: Tensor, target: Tensor, share: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, dhidden, dweight = out
        scale = dout[0]
        return dhidden * scale, dweight * scale, ops.zeros_like(target), ops.zeros_like(share)


class _FrozenHeadKernel(nn.Cell):
    """The same, with the gradient of the weight as a separate operator, which graphs that do not need it leave out."""

    def __init__(self, kind: str, smoothing: float) -> None:
        super().__init__()
        self.more = (Tensor([smoothing], ms.float32),) if smoothing else ()
        smooth = "Smooth" if smoothing else ""
        self.forward = operator(
            f"Glm{smooth}FrozenHeadLoss{kind}",
            lambda x, w, target, share, *more: ((1,), x),
            (ms.float32, ms.float32),
        )
        self.back_weight = operator(f"Glm{smooth}HeadWeight{kind}", lambda x, w, target, share, *more: w)

    def construct(self, hidden: Tensor, weight: Tensor, target: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(hidden, weight, target, share, *self.more)

    def bprop(
        self, hidden: Tensor, weight: Tensor, target: Tensor, share: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale = dout[0]
        dweight = self.back_weight(hidden, weight, target, share, *self.more)
        return out[1] * scale, dweight * scale, ops.zeros_like(target), ops.zeros_like(share)


class IntegerHeadCrossEntropy(Chosen):
    """`HeadCrossEntropy` of a frozen integer weight, dequantised a few rows at a time: a kernel without a formula.

    Where `kernel_fits` says no, use `CrossEntropy` of the layer's logits.
    """

    def __init__(self, *, bits: int, rounded: bool = False, smoothing: float = 0.0) -> None:
        super().__init__(lambda: _IntegerHeadKernel(f"Int{bits}{'Half' if rounded else ''}", smoothing))

    def construct(self, hidden: Tensor, weight: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
        """`hidden` (N, D), weight (V, D or P), scale (V, D / g), labels (N,) int32 -> a scalar."""
        target, share = _targets(labels)
        return self.kernel(hidden, weight, scale, target, share)[0].reshape(())


class _IntegerHeadKernel(nn.Cell):
    def __init__(self, kind: str, smoothing: float) -> None:
        super().__init__()
        self.more = (Tensor([smoothing], ms.float32),) if smoothing else ()
        self.forward = operator(
            f"Glm{'Smooth' if smoothing else ''}FrozenHeadLoss{kind}",
            lambda x, w, scale, target, share, *more: ((1,), x),
            (ms.float32, ms.float32),
        )

    def construct(
        self, hidden: Tensor, weight: Tensor, scale: Tensor, target: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.forward(hidden, weight, scale, target, share, *self.more)

    def bprop(
        self, hidden: Tensor, weight: Tensor, scale: Tensor, target: Tensor, share: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, ...]:
        without = (ops.zeros_like(given) for given in (weight, scale, target, share))
        return out[1] * dout[0], *without


def _targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels as a column (N, 1), 0 for ignored ones, and the factor of each token (N, 1): 1 / count, or 0."""
    kept = (labels != IGNORED).reshape(-1, 1)
    weight = ops.cast(kept, ms.float32)
    return ops.cast(kept, ms.int32) * ops.cast(labels.reshape(-1, 1), ms.int32), weight / (_sum(weight) + COUNT_EPSILON)


def _row_losses(logits: Tensor, probs: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """The loss of each token (N, 1): log sum exp of its logits less the logit of its target.

    With smoothing, a weighted mean of logits takes the place of the target's. log sum exp = logit - log probability is
    taken from the most probable token, whose probability is at least 1 / V; the target's may be 0. ArgMaxWithValue is
    the fast maximum on a CPU, ReduceMax takes seven times as long.
    """
    best, top = _highest(logits)
    likeliest = ops.gather_elements(probs, 1, best.reshape(-1, 1))
    wanted = ops.gather_elements(logits, 1, target)
    if smoothing > 0:
        wanted = (1 - smoothing) * wanted + smoothing * _mean(logits, -1)
    return top.reshape(-1, 1) - ops.log(likeliest) - wanted


class _Weighted(nn.Cell):
    """The formula with a gradient of its own; returns the probabilities too, because `bprop` sees results only."""

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def construct(self, logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        probs = ops.softmax(logits, -1)
        return _sum(_row_losses(logits, probs, target, self.smoothing) * weight), probs

    def bprop(
        self, logits: Tensor, target: Tensor, weight: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale = weight * dout[0]
        probs = out[1] if self.smoothing == 0 else out[1] - self.smoothing / logits.shape[1]
        dlogits = probs * scale
        scale = -(1 - self.smoothing) * scale
        dlogits = ops.tensor_scatter_elements(dlogits, target, scale, axis=1, reduction="add")
        return dlogits, ops.zeros_like(target), ops.zeros_like(weight)


class _WeightedHead(nn.Cell):
    """Returns the loss and its gradients for `hidden` and `weight`; `bprop` multiplies these by the incoming one."""

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def construct(
        self, hidden: Tensor, weight: Tensor, target: Tensor, weight_of_row: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dhidden: tuple[Tensor, ...] = ()
        loss, dweight, certain = 0.0, 0.0, 1 - self.smoothing
        for rows in _chunks(hidden.shape[0], weight.shape[0]):
            part = ops.depend(hidden[rows], loss) if dhidden else hidden[rows]  # one chunk after the other
            logits = ops.cast(_times(part, weight), ms.float32)
            probs = ops.softmax(logits, -1)
            kept = weight_of_row[rows]
            loss = loss + _sum(_row_losses(logits, probs, target[rows], self.smoothing) * kept)
            probs = probs if self.smoothing == 0 else probs - self.smoothing / weight.shape[0]
            probs, kept = ops.cast(probs, hidden.dtype), ops.cast(kept > 0, hidden.dtype)
            wanted = certain * ops.gather(weight, target[rows].reshape(-1), 0)
            dhidden += ((_forward(probs, weight) - wanted) * kept,)
            part = part * kept
            dweight = dweight + ops.tensor_scatter_add(_back(probs, part), target[rows], -certain * part)
        return loss, ops.concat(dhidden) if len(dhidden) > 1 else dhidden[0], dweight, ops.reduce_max(weight_of_row)

    def bprop(
        self, hidden: Tensor, weight: Tensor, target: Tensor, weight_of_row: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, dhidden, dweight, share = out
        scale = ops.cast(share * dout[0], hidden.dtype)
        return dhidden * scale, dweight * scale, ops.zeros_like(target), ops.zeros_like(weight_of_row)


def _chunks(rows: int, vocabulary: int) -> tuple[slice, ...]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return tuple(slice(start, min(start + size, rows)) for start in range(0, rows, size))


_cross_entropy = CrossEntropy()
