"""How the tests of this folder compare gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn


def gradients(cell: nn.Cell, *inputs: Tensor) -> list[np.ndarray]:
    """Gradients of a scalar cell for its floating inputs."""
    places = tuple(i for i, value in enumerate(inputs) if value.dtype in (ms.float32, ms.float16))
    found = ms.grad(cell, places)(*inputs)
    return [value.astype(ms.float32).asnumpy() for value in (found if isinstance(found, tuple) else (found,))]


def both_gradients(derived: nn.Cell, with_gradient: nn.Cell, *inputs: Tensor) -> None:
    """Asserts that two cells agree in value and in every gradient."""
    np.testing.assert_allclose(with_gradient(*inputs).asnumpy(), derived(*inputs).asnumpy(), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients(with_gradient, *inputs), gradients(derived, *inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * max(1, np.abs(theirs).max()))


def assert_derivative(cell: nn.Cell, *inputs: Tensor, step: float = 1e-2, rel: float = 0.02) -> None:
    """Asserts that each gradient is the slope of the value along a random direction."""
    rng = np.random.default_rng(1)
    floats = [i for i, value in enumerate(inputs) if value.dtype == ms.float32]
    for place, gradient in zip(floats, gradients(cell, *inputs), strict=True):
        start = inputs[place].asnumpy()
        direction = rng.normal(size=start.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        values = []
        for side in (step, -step):
            moved = list(inputs)
            moved[place] = Tensor(start + side * direction)
            values.append(float(cell(*moved)))
        slope = float((gradient * direction).sum())
        assert abs((values[0] - values[1]) / (2 * step) - slope) < rel * max(abs(slope), 0.1), place
