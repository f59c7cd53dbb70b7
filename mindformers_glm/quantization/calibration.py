"""Ranges of what flows into the linear layers, over rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindformers_glm.errors import DataError
from mindformers_glm.models.linear import Linear


class Range(NamedTuple):
    """The least and the largest input of a layer."""

    low: float
    high: float


def input_ranges(
    network: nn.Cell, rows: Iterable[list[int]], *, shown: Callable[[], None] | None = None
) -> dict[str, Range]:
    """Ranges of the inputs of every linear layer, by its name, over rows of ids that go through one at a time.

    The network must run in PyNative mode. `shown` is called after each row.

    Raises:
        DataError: there is no row.
    """
    found: dict[str, Range] = {}
    handles = []
    for path, cell in network.cells_and_names():
        if isinstance(cell, Linear):
            handles.append(cell.register_forward_pre_hook(_watch(path, found)))
    count = 0
    try:
        for ids in rows:
            network(Tensor(np.asarray([ids], np.int32), ms.int32))
            count += 1
            if shown is not None:
                shown()
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise DataError("calibration", "there is no row", 'Name a file of {"inputs_pretokenized": ...} lines')
    return found


def _watch(path: str, found: dict[str, Range]) -> Callable[[nn.Cell, tuple], None]:
    def hook(_: nn.Cell, inputs: tuple) -> None:
        values = inputs[0].asnumpy()
        before = found.get(path, Range(float("inf"), float("-inf")))
        found[path] = Range(min(before.low, float(values.min())), max(before.high, float(values.max())))

    return hook
