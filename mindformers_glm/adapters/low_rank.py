"""What a low-rank adapter makes of a weight, in NumPy: for networks and for files alike."""

from __future__ import annotations

import numpy as np


def merged_weight(
    weight: np.ndarray, down: np.ndarray, up: np.ndarray, scaling: float, magnitude: np.ndarray | None = None
) -> np.ndarray:
    """W + scaling * B A for W (out, in), A (rank, in), B (out, rank), all float32.

    With DoRA's `magnitude` (out,) each row of the sum is brought to that length.
    """
    merged = weight + np.float32(scaling) * (up @ down)
    if magnitude is None:
        return merged
    merged *= (magnitude / np.linalg.norm(merged, axis=1))[:, None]
    return merged
