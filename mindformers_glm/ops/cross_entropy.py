"""Cross entropy of next tokens over a large vocabulary."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

IGNORED = -100

_sum = ops.ReduceSum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[label] over labels that are not -100: a float32 scalar, 0 where none is left.

    logits (N, V) of any float type, labels (N,) int32. The divisor is count + 1e-5, as in MindFormers.
    """
    kept = labels != IGNORED
    weight = ops.cast(kept, ms.float32)
    weight = weight / (_sum(weight) + 1e-5)
    target = ops.cast(kept, ms.int32) * labels
    logp = ops.log_softmax(ops.cast(logits, ms.float32), -1)
    picked = ops.gather_elements(logp, 1, target.reshape(-1, 1)).reshape(-1)
    return -_sum(picked * weight)
