"""Files that hold integer weights in the order of the kernels, so that a network computes from them where they lie.

`NAME_panels` stands for the weight or scales NAME of ours, with the same shape and type (ops/panels.py says in what
order). Whoever does not know the order does not know the name either, and whoever asks for NAME gets rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mindformers_glm.checkpoint.formats.tensor_file import Entry, TensorFile, damaged
from mindformers_glm.log import log_once
from mindformers_glm.ops.kernels.memory import ALIGNED
from mindformers_glm.ops.panels import PANEL, to_rows

SUFFIX = "_panels"
_COLUMNS = {"int8": 4, "uint8": 64, "float16": 1}  # a row of a panel is so many numbers, or several times as many


def as_rows(files: Sequence[TensorFile]) -> list[TensorFile]:
    """The files with weights and scales under their own names, in rows that are computed when they are read.

    Raises:
        CheckpointError: such a tensor is no matrix of integers or scales.
    """
    return [_as_rows(file) if any(name.endswith(SUFFIX) for name in file.entries) else file for file in files]


def _as_rows(file: TensorFile) -> TensorFile:
    entries: dict[str, Entry] = {}
    computed = dict(file.computed)
    made = TensorFile(file.path, file.format, entries, file.metadata, computed, dict(file.scales))
    for stored, entry in file.entries.items():
        name = stored.removesuffix(SUFFIX)
        if name != stored:
            if not _is_panel(entry) or name in file.entries:
                fault = f"{stored!r} of shape {entry.shape} {entry.dtype} is no integer weight in panels"
                raise damaged(file.path, fault)
            entry = Entry(name, entry.dtype, entry.shape, (), strides=())
            computed[name] = partial(_rows, file, stored)
            made.panels[name] = partial(_mapped, file, stored)
        entries[name] = entry
    return made


def _is_panel(entry: Entry) -> bool:
    step = _COLUMNS.get(entry.dtype, 0)
    return step > 0 and len(entry.shape) == 2 and 0 not in entry.shape and entry.shape[1] % step == 0


def _rows(file: TensorFile, stored: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop), of the panels that they lie in."""
    begin, end = start // PANEL * PANEL, min(-(-stop // PANEL) * PANEL, file.entries[stored].shape[0])
    return to_rows(file.read_rows(stored, begin, end))[start - begin : stop - begin]


def _mapped(file: TensorFile, stored: str) -> np.ndarray | None:
    """The panels where they lie in the file; None where a kernel's reads would cross lines of a CPU's cache."""
    bits = file.mapped_bits(stored)
    if bits is not None and bits.ctypes.data % ALIGNED == 0:
        return bits
    log_once(f"{file.path}: weights that are not aligned to {ALIGNED} bytes are read as rows, and packed again")
    return None
