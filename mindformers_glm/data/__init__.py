"""From files to batches of token ids. A name is imported when it is used first."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindformers_glm.data.batch import Batch, Statistics
    from mindformers_glm.data.build import build_dataset
    from mindformers_glm.data.causal import CausalLanguageModelDataset, TextDataLoader, TokenDataLoader
    from mindformers_glm.data.conversations import (
        AlpacaDataLoader,
        Conversation,
        ConversationDataLoader,
        ShareGPTDataLoader,
    )
    from mindformers_glm.data.dataset import TokenDataset
    from mindformers_glm.data.hf_loader import HFDataLoader
    from mindformers_glm.data.indexed.loaders import IndexedDataLoader
    from mindformers_glm.data.keyword_gen import KeyWordGenDataset
    from mindformers_glm.data.loaders import ADGenDataLoader, Pair
    from mindformers_glm.data.mindrecord import MindDataset
    from mindformers_glm.data.multi_turn import MultiTurnDataset
    from mindformers_glm.data.recognised import AutoDataLoader

_HOMES = {
    "ADGenDataLoader": "loaders",
    "AlpacaDataLoader": "conversations",
    "AutoDataLoader": "recognised",
    "Batch": "batch",
    "CausalLanguageModelDataset": "causal",
    "Conversation": "conversations",
    "ConversationDataLoader": "conversations",
    "HFDataLoader": "hf_loader",
    "IndexedDataLoader": "indexed.loaders",
    "KeyWordGenDataset": "keyword_gen",
    "MindDataset": "mindrecord",
    "MultiTurnDataset": "multi_turn",
    "Pair": "loaders",
    "ShareGPTDataLoader": "conversations",
    "Statistics": "batch",
    "TextDataLoader": "causal",
    "TokenDataLoader": "causal",
    "TokenDataset": "dataset",
    "build_dataset": "build",
}

__all__ = [
    "ADGenDataLoader",
    "AlpacaDataLoader",
    "AutoDataLoader",
    "Batch",
    "CausalLanguageModelDataset",
    "Conversation",
    "ConversationDataLoader",
    "HFDataLoader",
    "IndexedDataLoader",
    "KeyWordGenDataset",
    "MindDataset",
    "MultiTurnDataset",
    "Pair",
    "ShareGPTDataLoader",
    "Statistics",
    "TextDataLoader",
    "TokenDataLoader",
    "TokenDataset",
    "build_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
