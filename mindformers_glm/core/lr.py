"""The import path of MindFormers for learning-rate schedules; they live in `optim.schedules`."""

from mindformers_glm.core import build_lr
from mindformers_glm.optim.schedules import (
    ConstantWarmUpLR,
    CosineWithRestartsAndWarmUpLR,
    CosineWithWarmUpLR,
    LearningRateWiseLayer,
    LinearWithWarmUpLR,
    PolynomialWithWarmUpLR,
    WarmUpDecayLR,
)

__all__ = [
    "ConstantWarmUpLR",
    "CosineWithRestartsAndWarmUpLR",
    "CosineWithWarmUpLR",
    "LearningRateWiseLayer",
    "LinearWithWarmUpLR",
    "PolynomialWithWarmUpLR",
    "WarmUpDecayLR",
    "build_lr",
]
