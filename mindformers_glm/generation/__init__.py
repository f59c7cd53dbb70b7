"""Prompt ids in, new ids out: settings, sampling, beam search, KV cache, engine. Ids only; text is for tokenizers.

Importing this package registers what `model.generate`, `model.chat` and `model.stream_chat` call. MindSpore
is imported when a MindSpore model is given, and not before.
"""

from mindformers_glm.generation import chat as _chat  # noqa: F401 - registers chat and stream_chat
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine, Score
from mindformers_glm.generation.generate import MindSporeEngine, engine_of, generate
from mindformers_glm.generation.interface import Generation, Network, Search
from mindformers_glm.generation.streamer import TextIteratorStreamer, TextStreamer, stop_at

__all__ = [
    "Engine",
    "Generation",
    "GenerationConfig",
    "MindSporeEngine",
    "Network",
    "Score",
    "Search",
    "TextIteratorStreamer",
    "TextStreamer",
    "engine_of",
    "generate",
    "stop_at",
]
