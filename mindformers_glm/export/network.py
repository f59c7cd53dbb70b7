"""The network as one graph for another runtime: any number of sequences, any lengths, its cache an argument.

New tokens of all sequences stand in one row, and each says which sequence it belongs to; so do the slots of the cache.
Attention masks what belongs to another sequence. So no dimension is the batch, one graph serves prefill and decoding of
one or many, and nothing is padded. Only new keys and values come out: the caller keeps the cache and writes them there.

Shapes: N new tokens, S slots of the cache, M wanted rows, L layers, D hidden, H heads, K kv heads, G = H / K,
E head_dim, P prefix, V vocabulary.

Written in what MindSpore Lite 2.0 can run: no shape is read in the graph, N is the -1 of every reshape, nothing is
scattered, a slice keeps its axis (an index is several times slower there). No input is reshaped itself: after a change
of lengths Lite frees the memory of a reshaped input, which is the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm.ops.attention import MASKED
from mindformers_glm.ops.linear import matrix_type

INPUTS = ("tokens", "positions", "sequences", "owners", "wanted", "past_keys", "past_values")
OUTPUTS = ("logits", "new_keys", "new_values")


class Sizes(NamedTuple):
    """Lengths of a graph's inputs; None where any will do."""

    tokens: int | None = None
    slots: int | None = None
    wanted: int | None = None


class PackedNetwork(nn.Cell):
    """Tokens of several sequences in one row, after what the cache holds of each.

    `tokens`, `positions`, `sequences` (1, 1, 1, N) int32: id, place and number of the sequence; `owners` (1, 1, 1, S)
    int32: the sequence that a slot belongs to, -1 for a free one; `wanted` (M,) int32: tokens whose logits are
    computed; `past_keys`, `past_values` (L, 1, K, S, E). Result: logits (M, V) float32, new keys and values
    (L, 1, K, N, E).
    """

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        config, transformer = model.config, model.transformer
        self.embedding, self.encoder = transformer.embedding, transformer.encoder
        self.embedding_table, self.hidden = model.parts.table, config.hidden_size
        self.head = model.parts.head
        table = model.parts.rotary.asnumpy()  # (positions, 2, E)
        self.cosines, self.sines = (Tensor(np.ascontiguousarray(table[:, side])) for side in (0, 1))
        self.factor, self.offset = transformer.factor, transformer.offset
        self.layers, self.groups = config.num_layers, config.num_attention_heads // config.num_kv_heads
        self.kv_heads, self.channels = config.num_kv_heads, config.kv_channels
        self.spread = Tensor(np.zeros((1, 1, self.groups, 1), np.float32))
        self.cache_dtype = cache_dtype(model)
        self.compute_dtype = matrix_type(config.compute_dtype)[0]
        self.prefix = None
        if model.prefix_encoder is not None:  # the trained table becomes a constant of the graph
            self.prefix = Tensor(np.ascontiguousarray(model.prefix_encoder(1).asnumpy()))
        self.set_train(False)

    def construct(
        self,
        tokens: Tensor,
        positions: Tensor,
        sequences: Tensor,
        owners: Tensor,
        wanted: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, new keys and new values; see the class."""
        x = ops.cast(ops.gather(self.embedding_table, tokens, 0).reshape(-1, self.hidden), self.embedding.dtype)
        cos, sin = self.turned(positions)
        own, owned, place = (ops.cast(numbers, ms.float32) for numbers in (sequences, owners, positions))
        rows = self.of_rows(own)
        past_mask = ops.cast(owned != rows, ms.float32) * MASKED
        other = ops.cast(own != rows, ms.float32)
        later = ops.cast(place > self.of_rows(place), ms.float32)
        mask = (other + later) * MASKED
        keys: tuple[Tensor, ...] = ()
        values: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.encoder.layers):
            past: tuple = ((self.of_layer(past_keys, i), self.of_layer(past_values, i), past_mask),)
            if self.prefix is not None:
                past = ((self.prefix[i, 0], self.prefix[i, 1], None), *past)
            x, key, value = layer.cached(x, cos, sin, mask, 1, past)
            keys += (ops.cast(key, self.cache_dtype).expand_dims(0),)
            values += (ops.cast(value, self.cache_dtype).expand_dims(0),)
        x = self.encoder.norm(ops.gather(x, wanted, 0))
        return ops.cast(self.head(x), ms.float32), ops.concat(keys), ops.concat(values)

    def turned(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (1, H + 2 K, N, E) of tokens at these positions; see ops/rotary."""
        cos = ops.gather(self.cosines, positions, 0).reshape(1, 1, -1, self.channels)
        sin = ops.gather(self.sines, positions, 0).reshape(1, 1, -1, self.channels)
        return cos * self.factor + self.offset, sin * self.factor

    def of_rows(self, numbers: Tensor) -> Tensor:
        """A number of each token (1, 1, 1, N), for each row of the queries: (1, 1, G * N, 1), ordered (g, n).

        Not an input: with G = 1 the sum adds nothing, the compiler drops it, and the input itself would be reshaped.
        """
        return (numbers + self.spread).reshape(1, 1, -1, 1)

    def of_layer(self, cache: Tensor, layer: int) -> Tensor:
        """One layer's part of the cache: (1, K, S, E)."""
        part = cache[layer : layer + 1].reshape(1, self.kv_heads, -1, self.channels)
        return ops.cast(part, self.compute_dtype)

    def inputs(self, sizes: Sizes = Sizes()) -> tuple[Tensor, ...]:  # noqa: B008 - a constant
        """Tensors that declare the graph's inputs, in the order of INPUTS."""
        tokens, slots, wanted = sizes
        cache = (self.layers, 1, self.kv_heads, slots, self.channels)
        rows, owners = (_declared((1, 1, 1, length), ms.int32) for length in (tokens, slots))
        past = _declared(cache, self.cache_dtype)
        return rows, rows, rows, owners, _declared((wanted,), ms.int32), past, past


def cache_dtype(model: nn.Cell) -> ms.Type:
    """The type of the graph's cache: float16 for a network that computes in it, float32 otherwise."""
    return ms.float16 if model.config.compute_dtype == "float16" else ms.float32


def _declared(shape: tuple[int | None, ...], dtype: ms.Type) -> Tensor:
    if None in shape:
        return Tensor(shape=list(shape), dtype=dtype)
    sizes = [size for size in shape if size is not None]
    return Tensor(np.zeros(sizes, np.int32 if dtype == ms.int32 else np.float32)).astype(dtype)
