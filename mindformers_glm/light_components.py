"""The modules that register a name and need no MindSpore; components.py has the others too."""

from __future__ import annotations

from mindformers_glm import tokenizers  # noqa: F401
from mindformers_glm.checkpoint.load import model_files  # noqa: F401
from mindformers_glm.data import registered as data  # noqa: F401
from mindformers_glm.evaluation import metrics, text_metrics  # noqa: F401
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.quantization.schemes import registered as schemes  # noqa: F401

for family in FAMILIES:
    family.config_class()
