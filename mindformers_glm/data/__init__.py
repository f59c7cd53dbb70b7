"""From files to batches of token ids."""

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
