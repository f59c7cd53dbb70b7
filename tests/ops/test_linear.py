"""The linear layer's function."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindformers_glm.ops.linear import linear


def test_rows_equal_numpy_and_keep_their_type():
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 3), (7, 3), (7,)))
    ours = linear(Tensor(x), Tensor(weight), Tensor(bias))
    np.testing.assert_allclose(ours.asnumpy(), x @ weight.T + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(linear(Tensor(x), Tensor(weight)).asnumpy(), x @ weight.T, rtol=1e-5, atol=1e-6)
    assert linear(Tensor(x), Tensor(weight, ms.float16)).dtype == ms.float32
    assert linear(Tensor(x, ms.float16), Tensor(weight), Tensor(bias)).dtype == ms.float16
