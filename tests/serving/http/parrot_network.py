"""A network for tests of servers: what it says follows from the ids of its own row alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mindformers_glm.generation.cache import CacheShape, KVCache

CALL = "weather\n```python\ntool_call(city='北京', days=2)\n```"

BROKEN_CALL = "weather\n```python\ntool_call(city='北京', days=two)\n```"


class ParrotNetwork:
    """Speaks as ChatGLM3: answers the last user message (`answer`), and a tool's result with what it was.

    Where nothing is to be said any more it ends with <|user|>, after a call with <|observation|>. Logits of all other
    ids are equal, so that a mask decides among them.
    """

    max_length = 200_000

    def __init__(self, tokenizer, vocab_size: int = 4224) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        role = tokenizer.get_command
        self._assistant, self._user, self._result = (
            role(name) for name in ("<|assistant|>", "<|user|>", "<|observation|>")
        )

    def new_cache(self, rows: int) -> KVCache:
        return KVCache(CacheShape(1, 1, 1), rows, block=64)  # its keys are the ids

    def version(self) -> int:
        return 0

    def forward(self, tokens, counts, cache, wanted):
        before = cache.lengths.copy()
        cache.reserve(int((cache.lengths + counts).max()))
        ids = tokens[:, None, :, None].astype(np.float32)
        cache.append(0, ids, ids, counts)
        cache.advance(counts)
        if wanted is None or not len(wanted):
            return None
        width = tokens.shape[1]
        logits = np.zeros((len(wanted), self.vocab_size), np.float32)
        for place, flat in enumerate(wanted):
            row, column = divmod(int(flat), width)
            seen = cache.keys[0, row, 0, : before[row] + column + 1, 0].astype(int).tolist()
            logits[place, self.next_id(seen)] = 9
        return logits

    def next_id(self, seen: list[int]) -> int:
        begin = len(seen) - 1 - seen[::-1].index(self._assistant) if self._assistant in seen else -1
        said = seen[begin + 1 :]
        turn = seen[:begin] if begin >= 0 else []
        roles = [i for i, token in enumerate(turn) if token in (self._user, self._result)]
        if not roles:
            return self.tokenizer.vocabulary.encode("嗯")[-1]
        asked = self.tokenizer.decode(turn[roles[-1] + 1 :], skip_special_tokens=True).strip()
        if turn[roles[-1]] == self._result:
            return self._follow(said, f"\n结果是 {asked}", self._user)
        if asked.startswith("wait for ") and not said:
            Path(asked[9:]).read_text()  # a pipe that the test writes to
        if asked == "for ever":
            return self.tokenizer.vocabulary.encode("嗯")[-1]
        if asked == "broken call":
            return self._follow(said, BROKEN_CALL, self._user)
        if asked.startswith("call"):
            return self._follow(said, CALL, self._result)
        if asked.startswith("say "):
            return self._follow(said, "\n" + json.loads(asked[4:]), self._user)
        return self._follow(said, f"\n你说 {asked}", self._user)

    def _follow(self, said: list[int], text: str, end: int) -> int:
        script = self.tokenizer.vocabulary.encode(text)
        return script[len(said)] if len(said) < len(script) else end
