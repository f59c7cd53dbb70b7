"""Where a low-rank adapter stands and what it makes of a weight, in NumPy: for networks and for files alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mindformers_glm.adapters.config import ALL_LINEAR, LoraConfig
from mindformers_glm.errors import ConfigError

DELTA = "mindpet_delta_lora"  # every adapter weight has this in its name, and nothing else has


def chosen_layers(layers: Sequence[str], config: LoraConfig) -> list[str]:
    """The paths of those linear layers whose own name matches `target_modules` and neither name nor path an excluded
    pattern.

    A pattern that matches no layer's own name is one for whole paths, as peft takes it.

    Raises:
        ConfigError: none is left.
    """
    excluded = config.exclude_layers or []
    named = {path: path.rpartition(".")[2] for path in layers}
    if config.target_modules == ALL_LINEAR:
        matching = [path for path, name in named.items() if name != "output_layer"]
    else:
        matching = [path for path, name in named.items() if re.match(config.target_modules, name)]
    matching = matching or [path for path in named if re.fullmatch(config.target_modules, path)]
    chosen = [
        path
        for path in matching
        if not any(re.match(pattern, name) for pattern in excluded for name in (path, named[path]))
    ]
    if not chosen:
        names = ", ".join(sorted({path.rpartition(".")[2] for path in layers}))
        raise ConfigError(
            "pet_config.target_modules",
            config.target_modules,
            f"No layer is left to adapt; the network's linear layers are {names}.",
        )
    return chosen


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


def row_sizes(weight: np.ndarray, down: np.ndarray, up: np.ndarray, scaling: float) -> np.ndarray:
    """The Euclidean length (out,) of each row of W + scaling * B A, which is never made; as `merged_weight`."""
    crossed = ((weight @ down.T) * up).sum(-1)
    low = ((up @ (down @ down.T)) * up).sum(-1)
    scale = np.float32(scaling)
    return np.sqrt(np.square(weight).sum(-1) + 2 * scale * crossed + scale**2 * low)
