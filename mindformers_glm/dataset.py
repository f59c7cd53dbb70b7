"""The import path of MindFormers for datasets and data loaders; they live in `data`."""

from typing import Any

from mindformers_glm.data import (
    ADGenDataLoader,
    CausalLanguageModelDataset,
    KeyWordGenDataset,
    MultiTurnDataset,
    build_dataset,
)
from mindformers_glm.registry import DATA_LOADERS
from mindformers_glm.tools.register import with_type

__all__ = [
    "ADGenDataLoader",
    "CausalLanguageModelDataset",
    "KeyWordGenDataset",
    "MultiTurnDataset",
    "build_dataset",
    "build_dataset_loader",
]


def build_dataset_loader(config: dict[str, Any] | None = None, class_name: str | None = None, **arguments: Any) -> Any:
    """The data loader that a section describes."""
    return DATA_LOADERS.build(with_type(config, class_name, arguments), "data_loader")
