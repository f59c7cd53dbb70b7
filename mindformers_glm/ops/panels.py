"""Integer weights in the order in which the kernels read them, in NumPy: kernels/source/packing.h says which.

A panel holds 16 rows, the last one of a weight what is left. Each of its steps holds four bytes of every row: with 8
bits four columns, 128 added to each; with 4 bits eight, the first four in the low halves. Scales: of a group, those of
every row. A panel takes the bytes that its rows took, at the same place, so shapes stay. Rows: as quantized.py says.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mindformers_glm.ops.quantized import BLOCK

PANEL = 16
_HALF = BLOCK // 2  # in rows, the halves of a byte are columns so far apart
_OFFSET = 0x80


def to_panels(rows: np.ndarray) -> np.ndarray:
    """Whole panels of rows (N, P) int8 or uint8, or of their scales (N, G) float16; shape and type stay."""
    return _by_panel(rows, _weight_panel if rows.itemsize == 1 else _scale_panel)


def to_rows(panels: np.ndarray) -> np.ndarray:
    """The inverse of `to_panels`."""
    return _by_panel(panels, _weight_rows if panels.itemsize == 1 else _scale_rows)


def _by_panel(given: np.ndarray, change: Callable[[np.ndarray, bool], np.ndarray]) -> np.ndarray:
    """`change` of (panels, lanes, numbers), for the whole panels together and for what is left."""
    rows, numbers = given.shape
    whole = rows // PANEL * PANEL
    found = np.empty_like(given)
    for part, lanes in ((slice(0, whole), PANEL), (slice(whole, rows), rows - whole)):
        if part.start < part.stop:
            blocks = np.ascontiguousarray(given[part]).reshape(-1, lanes, numbers)
            found[part] = change(blocks, given.dtype == np.uint8).reshape(-1, numbers)
    return found


def _weight_panel(blocks: np.ndarray, has_halves: bool) -> np.ndarray:
    panels, lanes, size = blocks.shape
    if has_halves:
        halves = blocks.reshape(panels, lanes, -1, 1, _HALF)
        columns = np.concatenate((halves & 15, halves >> 4), 3).reshape(panels, lanes, -1, 2, 4)
        steps = columns[:, :, :, 0] | columns[:, :, :, 1] << 4
    else:
        steps = (blocks.view(np.uint8) ^ np.uint8(_OFFSET)).reshape(panels, lanes, -1, 4)
    return np.ascontiguousarray(steps.transpose(0, 2, 1, 3)).view(blocks.dtype).reshape(panels, lanes, size)


def _weight_rows(blocks: np.ndarray, has_halves: bool) -> np.ndarray:
    panels, lanes, size = blocks.shape
    steps = np.ascontiguousarray(blocks.view(np.uint8).reshape(panels, -1, lanes, 4).transpose(0, 2, 1, 3))
    if not has_halves:
        return (steps ^ np.uint8(_OFFSET)).view(blocks.dtype).reshape(panels, lanes, size)
    columns = np.stack((steps & 15, steps >> 4), 3).reshape(panels, lanes, -1, 2, _HALF)
    return (columns[:, :, :, 0] | columns[:, :, :, 1] << 4).reshape(panels, lanes, size)


def _scale_panel(blocks: np.ndarray, _: bool) -> np.ndarray:
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def _scale_rows(blocks: np.ndarray, _: bool) -> np.ndarray:
    panels, lanes, groups = blocks.shape
    return np.ascontiguousarray(blocks.reshape(panels, groups, lanes).transpose(0, 2, 1))
