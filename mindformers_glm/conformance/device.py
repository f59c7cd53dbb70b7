"""Arrays to the device and back, and a Cell with its gradients in one graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm import runtime


def tensor(values: np.ndarray, kind: str = "float32") -> Tensor:
    """Numbers as a tensor of `kind`; whole ones stay int32."""
    values = np.asarray(values)
    if values.dtype.kind in "iub":
        return Tensor(values)
    return Tensor(values.astype(np.float32)).astype(getattr(ms, kind))


def array(value: Tensor) -> np.ndarray:
    """A tensor of any floating type in float64."""
    return value.astype(ms.float32).asnumpy().astype(np.float64)


class _Probe(nn.Cell):
    """(sum(y * slope), y): what is differentiated, and what is shown."""

    def __init__(self, cell: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, slope: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
        y = self.cell(*inputs)
        return (ops.cast(y, ms.float32) * slope).sum(), y


class _Differentiated(nn.Cell):
    def __init__(self, cell: nn.Cell, count: int) -> None:
        super().__init__(auto_prefix=False)
        places = tuple(range(1, count + 1)) if count > 1 else 1
        self.grad = ms.value_and_grad(_Probe(cell), places, None, has_aux=True)

    def construct(self, slope: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
        return self.grad(slope, *inputs)


def value_and_gradients(
    cell: nn.Cell, slope: np.ndarray, inputs: Sequence[Tensor], count: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The result of a Cell, and the gradients of sum(result * slope) for its first `count` inputs, in float64."""
    (_, value), grads = _Differentiated(cell, count)(tensor(slope), *inputs)
    return array(value), [array(grad) for grad in (grads if count > 1 else (grads,))]


@contextmanager
def pynative() -> Iterator[None]:
    """Within it operators run one by one, where a Python function stands in for one."""
    was_graph, target = runtime.is_graph_mode(), runtime.device_target()
    runtime.set_up({"mode": 1, "device_target": target})
    try:
        yield
    finally:
        runtime.set_up({"mode": 0 if was_graph else 1, "device_target": target})
