"""Every module that registers a name: importing this one fills the registries. `registry` does so at the first miss."""

from __future__ import annotations

from importlib.util import find_spec

from mindformers_glm import generation, light_components  # noqa: F401
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.registry import TRAINERS

if find_spec("mindspore"):  # it is not there on a small machine, or a device with MindSpore Lite alone
    from mindformers_glm import pipeline  # noqa: F401
    from mindformers_glm.optim import adam, lamb, loss_scale, native, native_schedules, schedules  # noqa: F401
    from mindformers_glm.train import callbacks, wrapper  # noqa: F401

    TRAINERS.add("mindformers_glm.tasks.causal_language_modeling:CausalLanguageModelingTrainer")
    for family in FAMILIES:
        family.network_class()
