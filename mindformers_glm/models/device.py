"""Whether a device computes in the type that a configuration names. No MindSpore here."""

from __future__ import annotations

import logging

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.kernels.halves import multiplies


def check_device(config: NetworkConfig, target: str) -> None:
    """Raises ConfigError when `target`, "CPU" or "Ascend", cannot compute in the type that `config` names."""
    if target != "CPU":
        return
    if not multiplies(config.compute_dtype, target):
        raise ConfigError(
            "compute_dtype",
            config.compute_dtype,
            "This CPU gains nothing by 16-bit matmuls (AVX512-FP16 and the compiled kernels have them): use "
            "float32 here.",
        )
    if config.compute_dtype == "float16":
        log_once(
            "compute_dtype float16 is about ten times slower than float32 on a CPU: use float32 there.",
            level=logging.WARNING,
        )
