"""Operators of the compiled library inside MindSpore's graphs, and the switch between them and the formulas.

An operator has inputs and outputs of float32 and static shapes; the formula computes everything else. On Ascend the
same switch stands between the formulas and MindSpore's operators for Ascend (ops/ascend.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_glm.mindspore_private import is_sequence_value_unknown
from mindformers_glm.ops import ascend
from mindformers_glm.ops.kernels.library import library_file


def operator(
    name: str, shape: Callable[..., Any], dtype: Any = ms.float32, *, library: Path | None = None, told: str = ""
) -> Any:
    """The operator `name` of the library; `shape` computes the shapes of its outputs from those of its inputs.

    `library` is another one (plugin.py). `told` names what else `shape` depends on: PyNative caches output shapes by
    operator, attributes and input shapes. None where there is no library for this device, or kernels are switched off.
    """
    own = library_file()
    if own is None:
        return None
    path = own if library is None else library
    kind = tuple(dtype) if isinstance(dtype, (tuple, list)) else dtype
    made = _Operator(f"{path}:{name}", out_shape=shape, out_dtype=lambda *_: kind, func_type="aot")
    return made.add_prim_attr("told", told) if told else made


def writing_operator(name: str) -> Any:
    """The operator `name`, which changes parameters among its inputs and returns (1,).

    As with ops.assign, a graph reads those parameters before or after it in the order of the program.
    """
    made = operator(name, lambda *inputs: (1,))
    if made is not None:
        made.add_prim_attr("side_effect_mem", True)  # not by signatures: PyNative keeps one for all custom operators
    return made


class _Operator(ops.Custom):
    """An operator without state: a copy of a Cell uses the same one."""

    def __deepcopy__(self, memo: dict) -> _Operator:
        return self


class Chosen(nn.Cell):
    """A formula and, where there is one for the device, the same as a kernel: `kernel` is None or a Cell.

    It is made by `kernel`, on a CPU with a library, or by `on_ascend`, on Ascend (`is_ascend`).
    """

    def __init__(self, kernel: Callable[[], nn.Cell] | None = None, *, on_ascend: Callable[[], nn.Cell] | None = None):
        super().__init__()
        self.is_ascend = on_ascend is not None and ascend.is_wanted()
        make = on_ascend if self.is_ascend else kernel if library_file() is not None else None
        self.kernel: Any = None if make is None else make()
        self.kernel_is_on = self.kernel is not None

    def kernel_fits(self, x: Tensor) -> bool:
        """Whether the kernel is there and on and can take this tensor; decided while a graph is compiled."""
        if not self.kernel_is_on:
            return False
        return self.kernel.fits(x) if self.is_ascend else fits(x)


def fits(x: Tensor) -> bool:
    """Whether an operator can take this tensor; decided while a graph is compiled."""
    return x.dtype == ms.float32 and not is_sequence_value_unknown(x.shape)


def use_formulas(network: nn.Cell, *, keep_ascend: bool = False) -> list[Chosen]:
    """Switches the kernels of a network off, before it is compiled; returns the Cells that had one.

    With `keep_ascend` those of Ascend stay, whose gradients MindSpore derives.
    """
    cells = [cell for _, cell in network.cells_and_names() if isinstance(cell, Chosen) and cell.kernel_is_on]
    cells = [cell for cell in cells if not (keep_ascend and cell.is_ascend)]
    for cell in cells:
        cell.kernel_is_on = False
    return cells


@contextmanager
def formulas_only(network: nn.Cell) -> Iterator[None]:
    """Within it a network is compiled on MindSpore's own operators, which any machine has: to export it."""
    cells = use_formulas(network)
    try:
        yield
    finally:
        for cell in cells:
            cell.kernel_is_on = True
