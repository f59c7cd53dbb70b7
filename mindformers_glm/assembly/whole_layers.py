"""The W8A8 layers of a network: read from a folder, or made of float weights. No MindSpore here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mindformers_glm.checkpoint.load.filling import floats
from mindformers_glm.checkpoint.load.modelslim import is_w8a8, read_layers
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.files import user_path
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.w8a8 import Layer
from mindformers_glm.registry import SCHEMES


def folder_of(config: NetworkConfig, place: str | Path) -> Path:
    """Where W8A8 layers may lie: `quantization_weights`, or beside the weights at `place`."""
    folder = user_path(config.quantization_weights or place)
    return folder if folder.is_dir() else folder.parent


def layers_of(
    config: NetworkConfig, weights: WeightSource | Mapping[str, np.ndarray], place: str | Path, names: Iterable[str]
) -> dict[str, Layer]:
    """The W8A8 layers of `quantization_weights`, or of the folder `place`, by their names; or those of `names`, made of
    floats.

    Raises:
        ConfigError: the scheme needs inputs that were seen, and no such layers are there.
        CheckpointError: what is there cannot be read.
    """
    folder = folder_of(config, place)
    if config.quantization_weights or is_w8a8(folder):
        return read_layers(folder)
    scheme = SCHEMES.get(config.quantization_scheme)()
    if scheme.needs:
        scheme.quantise(np.zeros((1, 1), np.float32), group_size=0)  # says what is missing
    layers, there = {}, weights.names if isinstance(weights, WeightSource) else list(weights)
    for name in names:
        held = _floats(weights, f"{name}.bias").reshape(-1) if f"{name}.bias" in there else None
        layers[name] = scheme.quantise(_floats(weights, f"{name}.weight"), group_size=0, bias=held)
    return layers


def _floats(weights: WeightSource | Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return floats(weights, name) if isinstance(weights, WeightSource) else np.asarray(weights[name], np.float32)
