"""The tables of data loaders, handlers and datasets. A new one is one module and one line here."""

from __future__ import annotations

from mindformers_glm.registry import DATA_HANDLERS, DATA_LOADERS, DATASETS

_HERE = "mindformers_glm.data"

DATA_LOADERS.add(f"{_HERE}.causal:TextDataLoader")
DATA_LOADERS.add(f"{_HERE}.causal:TokenDataLoader")
DATA_LOADERS.add(f"{_HERE}.conversations:AlpacaDataLoader", "AlpacaInstructDataLoader")
DATA_LOADERS.add(f"{_HERE}.conversations:ConversationDataLoader", "ToolAlpacaDataLoader", "MessagesDataLoader")
DATA_LOADERS.add(f"{_HERE}.conversations:ShareGPTDataLoader")
DATA_LOADERS.add(f"{_HERE}.hf_loader:HFDataLoader", "CommonDataLoader")
DATA_LOADERS.add(f"{_HERE}.indexed.loaders:IndexedDataLoader", "BlendedMegatronDatasetDataLoader")
DATA_LOADERS.add(f"{_HERE}.loaders:ADGenDataLoader")
DATA_LOADERS.add(f"{_HERE}.mindrecord:MindDataset")
DATA_LOADERS.add(f"{_HERE}.recognised:AutoDataLoader", "OwnDataLoader")

DATA_HANDLERS.add(f"{_HERE}.hf_handlers:AlpacaInstructDataHandler")
DATA_HANDLERS.add(f"{_HERE}.hf_handlers:PackingHandler")

DATASETS.add(f"{_HERE}.causal:CausalLanguageModelDataset")
DATASETS.add(f"{_HERE}.keyword_gen:KeyWordGenDataset")
DATASETS.add(f"{_HERE}.multi_turn:MultiTurnDataset")
