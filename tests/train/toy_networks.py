"""Networks of a few hundred weights. Not in conftest.py: of modules of that name MindSpore's parser sees one only."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.ops.cross_entropy import cross_entropy

VOCABULARY, WIDTH, LENGTH = 17, 8, 6


class Toy(nn.Cell):
    """Predicts the next token from the present one."""

    def __init__(self, seed=0, dtype=ms.float32):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.table = Parameter(Tensor(rng.standard_normal((VOCABULARY, WIDTH)), dtype), name="table")
        self.weight = Parameter(Tensor(rng.standard_normal((VOCABULARY, WIDTH)) * 0.3, dtype), name="dense.weight")
        self.bias = Parameter(Tensor(np.zeros(VOCABULARY), dtype), name="dense.bias")

    def construct(self, input_ids, labels):
        hidden = ops.tanh(ops.gather(self.table, input_ids.reshape(-1), 0))
        return cross_entropy(ops.matmul(hidden, self.weight.T) + self.bias, labels.reshape(-1))


class SquareRoot(nn.Cell):
    """Its loss is 0 and its gradient is infinite."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((2, 2), np.float32)), name="w")

    def construct(self, input_ids, labels):
        return ops.sqrt(self.weight).sum()
