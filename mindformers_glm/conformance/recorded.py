"""Numbers of every check as a CPU gave them, shipped with the package; made by `conformance --record`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from mindformers_glm.conformance.check import Answer
from mindformers_glm.conformance.outcome import key
from mindformers_glm.files import atomic_write

FILE = Path(__file__).with_name("recorded.safetensors")


@cache
def recorded() -> Mapping[str, np.ndarray]:
    """The arrays in float32, by check and name; empty where the file is missing."""
    return load(FILE.read_bytes()) if FILE.is_file() else {}


def write(answers: Mapping[str, Answer], path: Path = FILE) -> int:
    """Writes what the device found in float32; the number of arrays."""
    arrays = {
        key(check, name): found.astype(np.float32, order="C")
        for check, answer in answers.items()
        for name, found in answer.found.items()
    }
    with atomic_write(path) as file:
        file.write(save(arrays))
    recorded.cache_clear()
    return len(arrays)
