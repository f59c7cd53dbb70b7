"""Fine-tune, evaluate and deploy the GLM family (ChatGLM2, ChatGLM3 and their kin) on MindSpore."""

from __future__ import annotations

from mindformers_glm.version import __version__

__all__ = ["__version__"]
