"""From files to batches of token ids."""

from mindformers_glm.data.batch import Batch, Statistics
from mindformers_glm.data.keyword_gen import KeyWordGenDataset
from mindformers_glm.data.loaders import ADGenDataLoader

__all__ = ["ADGenDataLoader", "Batch", "KeyWordGenDataset", "Statistics"]
