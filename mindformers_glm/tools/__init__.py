"""The import path of MindFormers for its registry, configuration and log."""

from mindformers_glm.log import logger
from mindformers_glm.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister

__all__ = ["MindFormerConfig", "MindFormerModuleType", "MindFormerRegister", "logger"]
