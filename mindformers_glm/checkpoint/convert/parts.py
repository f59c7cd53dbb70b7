"""A whole model as folders of what each tensor rank holds, under the official names, as ATB's process_weights.py."""

from __future__ import annotations

import json
from pathlib import Path

from mindformers_glm.checkpoint.formats.safetensors_file import write_safetensors
from mindformers_glm.checkpoint.load.model_files import config_file
from mindformers_glm.checkpoint.load.names import NAMINGS, targets
from mindformers_glm.checkpoint.load.resolve import Resolved
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import atomic_write, write_text
from mindformers_glm.models.family import FAMILIES


def write_parts(base: Resolved, size: int) -> Path:
    """MODEL/tensor_parallel/part_model/R with model.safetensors and config.json (`world_size`) for R of `size` ranks.

    Returns the folder part_model.

    Raises:
        ConfigError: the model is no folder, or nothing tells its network.
        CheckpointError: it does not divide, or the folder is there already.
    """
    config, weights = base.files.config, Path(base.weights)
    if config is None or not weights.is_dir():
        raise ConfigError("--model_path", str(base.name), "Name the folder of a model with its config.json.")
    place = weights / "tensor_parallel" / "part_model"
    if place.exists():
        raise CheckpointError(str(place), "it is there already", "Remove it, or name another model.")
    source = read_weights(weights)
    if source.kind != "weights":
        raise ConfigError("--model_path", str(base.name), "Give whole weights; merge adapters first.")
    division = FAMILIES.of(config).divided(config, size)
    text = json.loads(config_file(config, "hf", NAMINGS["hf"])[1])
    for rank in range(size):
        rows = []
        for name in source.names:
            (target,) = targets(name, NAMINGS["hf"], config)
            rows.append((target.name, source.dtype(name), division.cut(name, source.read_bits(name), rank)))
        folder = place / str(rank)
        folder.mkdir(parents=True)
        with atomic_write(folder / "model.safetensors", "wb") as file:
            write_safetensors(file, rows, {"format": "pt"})
        write_text(folder / "config.json", json.dumps({**text, "world_size": size}, indent=2) + "\n")
    return place
