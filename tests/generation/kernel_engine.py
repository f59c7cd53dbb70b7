"""An engine over the kernels and random weights, for tests of what requests get from it. No MindSpore."""

from __future__ import annotations

import numpy as np

from mindformers_glm.assembly.engine import held_engine
from mindformers_glm.assembly.random_held import random_network
from mindformers_glm.generation.engine import Engine
from mindformers_glm.models.interface import NetworkConfig

LENGTH = 512


def random_weights(*, vocabulary: int = 301, bits: int = 8):
    """A small network: integers, or float32 where `bits` is 0."""
    config = NetworkConfig(
        num_layers=2,
        padded_vocab_size=vocabulary,
        hidden_size=96,
        ffn_hidden_size=160,
        kv_channels=24,
        num_attention_heads=4,
        multi_query_group_num=2,
        seq_length=LENGTH,
        param_init_type="float32",
        compute_dtype="float32",
        quantization_bit=bits,
        quantization_group_size=32,
    )
    return random_network(config)


class Watched:
    """An engine whose forwards are told: the new tokens of each row that had some."""

    def __init__(self, weights, **options) -> None:
        self.engine: Engine = held_engine(weights, options)
        self.network = self.engine.network
        self.steps: list[list[int]] = []
        self.blocks: list[int] = []
        self.hook = None
        original = self.network.forward

        def forward(tokens, counts, cache, wanted):
            self.steps.append([int(count) for count in counts if count])
            found = original(tokens, counts, cache, wanted)
            self.blocks.append(self.network.blocks.used_blocks)
            if self.hook is not None:
                self.hook()
            return found

        self.network.forward = forward

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error) -> None:
        self.engine.close()


def ids(seed: int, count: int, vocabulary: int = 301) -> list[int]:
    """A prompt."""
    return np.random.default_rng(seed).integers(0, vocabulary, count).tolist()
