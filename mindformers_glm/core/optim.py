"""The import path of MindFormers for optimizers; they live in `optim`."""

from mindformers_glm.core import build_optim
from mindformers_glm.optim import AdamW, FP32StateAdamWeightDecay, Lamb

__all__ = ["AdamW", "FP32StateAdamWeightDecay", "Lamb", "build_optim"]
