"""What one rank leads, the others repeat: the same caches, whatever requests come together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm.generation import led
from mindformers_glm.generation.cache import CacheShape, KVCache
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.parallel.mesh import Axis


class Counting:
    """A network whose cache holds the ids it has seen, and whose next token is a sum of them."""

    vocab_size, max_length, compilations = 50, 64, 0
    shape = CacheShape(1, 1, 1)

    def __init__(self):
        self.caches = []

    def version(self):
        return 0

    def new_cache(self, rows):
        self.caches.append(KVCache(self.shape, rows))
        return self.caches[-1]

    def forward(self, tokens, counts, cache, wanted):
        cache.reserve(int((cache.lengths + counts).max()))
        cache.append(0, tokens[:, None, :, None], tokens[:, None, :, None], counts)
        cache.advance(counts)
        if wanted is None:
            return None
        rows = np.asarray(wanted) // tokens.shape[1]
        sums = [int(cache.keys[0, row, 0, : cache.lengths[row], 0].sum()) % self.vocab_size for row in rows]
        return np.eye(self.vocab_size, dtype=np.float32)[sums] + 0.1 * np.eye(self.vocab_size)[5]


@pytest.fixture
def told(monkeypatch):
    messages = []

    def broadcast(axis, data):
        if data is not None:
            messages.append(data)
            return data
        return messages.pop(0)

    monkeypatch.setattr(led, "broadcast_bytes", broadcast)
    return messages


def test_followers_hold_what_the_leader_holds(told):
    axis, leader_network, follower_network = Axis("tp", (0, 1)), Counting(), Counting()
    leader = led.LeadingNetwork(leader_network, axis)
    seen = []
    original = leader.forward

    def forward(tokens, counts, cache, wanted):
        result = original(tokens, counts, cache, wanted)
        seen.append((cache.lengths.copy(), cache.keys.copy()))
        return result

    leader.forward = forward
    engine, plain = Engine(leader, max_num_seqs=8), Engine(Counting(), max_num_seqs=8)
    prompts = [[1, 2, 3], [4], [7, 8], [1, 2, 3, 9]]
    for config in (GenerationConfig(max_new_tokens=6), GenerationConfig(max_new_tokens=5, num_beams=3)):
        wanted = [ticket.results() for ticket in plain.submit_all(prompts, config)]
        assert [ticket.results() for ticket in engine.submit_all(prompts, config)] == wanted
    first = engine.submit([1, 2, 3, 4, 5], GenerationConfig(max_new_tokens=3), reuse_prefix=True).results()
    again = engine.submit([1, 2, 3, 4, 5, 6], GenerationConfig(max_new_tokens=3), reuse_prefix=True).results()
    assert first and again
    engine.close()
    leader.end()
    names = {json.loads(message)[1][0] for message in told}
    assert {"new", "forward", "reorder", "copy_row", "row", "end"} <= names

    repeated = []
    original_forward = follower_network.forward

    def follower_forward(tokens, counts, cache, wanted):
        original_forward(tokens, counts, cache, wanted)
        repeated.append((cache.lengths.copy(), cache.keys.copy()))

    follower_network.forward = follower_forward
    led.follow(follower_network, axis)
    assert not told
    assert len(repeated) == len(seen)
    for (lengths, keys), (other_lengths, other_keys) in zip(seen, repeated, strict=True):
        assert lengths.tolist() == other_lengths.tolist()
        for row, length in enumerate(lengths):
            assert np.array_equal(keys[:, row, :, :length], other_keys[:, row, :, :length])


def test_caches_that_nobody_holds_are_given_up(told):
    leader = led.LeadingNetwork(Counting(), Axis("tp", (0, 1)))
    cache = leader.new_cache(2)
    number = cache.number
    del cache
    leader.end()
    assert json.loads(told[-1]) == [[number], ["end"]]
