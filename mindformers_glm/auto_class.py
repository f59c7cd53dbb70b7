"""The import path of MindFormers for the Auto classes; they live in `auto`."""

from mindformers_glm.auto import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer

__all__ = ["AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer"]
