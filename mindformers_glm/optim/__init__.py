"""What turns gradients into new weights: schedules, optimizers, clipping, loss scale."""

from mindformers_glm.optim import native_schedules
from mindformers_glm.optim.schedules import Schedule, build_schedule

__all__ = ["Schedule", "build_schedule", "native_schedules"]
