"""Whether matmuls in a type are worth having on a device. No MindSpore here."""

from __future__ import annotations

from mindformers_glm.ops.kernels.library import library


def multiplies(name: str, target: str) -> bool:
    """Whether `target`, "CPU" or "Ascend", has matmuls in `compute_dtype` `name` that are worth having."""
    if name != "bfloat16" or target != "CPU":
        return True
    found = library()
    return found is not None and bool(found.glm_halves_are_fast())
