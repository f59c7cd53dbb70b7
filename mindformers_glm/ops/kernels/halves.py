"""Whether a device has fast matmuls in a type. No MindSpore here."""

from __future__ import annotations

from mindformers_glm.ops.kernels.library import library


def multiplies(name: str, target: str) -> bool:
    """Whether `target`, "CPU" or "Ascend", has fast matmuls in `compute_dtype` `name`."""
    if name != "bfloat16" or target != "CPU":
        return True
    found = library()
    return found is not None and bool(found.glm_halves_are_fast())
