"""A network that says what the test tells it to, so that chats are tested without weights."""

from __future__ import annotations

import numpy as np

from mindformers_glm.generation.cache import CacheShape, KVCache

TOOLS = [{"name": "weather", "description": "of a city", "parameters": {"type": "object"}}]
CALL = "weather\n```python\ntool_call(city='北京')\n```"


class ScriptedNetwork:
    """Answers each wanted place with the next id of `script`, then with eos (2). `hook(place)` runs before each."""

    vocab_size = 4096

    def __init__(self, *, max_length: int = 512) -> None:
        self.max_length = max_length
        self.script: list[int] = []
        self.said = 0
        self.prompts: list[list[int]] = []
        self.hook = None

    def say(self, ids: list[int]) -> None:
        """What comes next."""
        self.script, self.said = list(ids), 0

    def new_cache(self, rows: int) -> KVCache:
        return KVCache(CacheShape(1, 1, 1), rows, block=8)

    def version(self) -> int:
        return 0

    def forward(self, tokens, counts, cache, wanted):
        cache.reserve(int((cache.lengths + counts).max()))
        empty = np.zeros((len(tokens), 1, tokens.shape[1], 1), np.float32)
        cache.append(0, empty, empty, counts)
        cache.advance(counts)
        if wanted is None or not len(wanted):
            return None
        if self.hook is not None:
            self.hook(self.said)
        token = self.script[self.said] if self.said < len(self.script) else 2
        self.said += 1
        logits = np.zeros((len(wanted), self.vocab_size), np.float32)
        logits[:, token] = 9
        return logits


def words(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def glm3_reply(tokenizer, text: str, end: str = "<|user|>") -> list[int]:
    return [*tokenizer.vocabulary.encode(text), tokenizer.get_command(end)]
