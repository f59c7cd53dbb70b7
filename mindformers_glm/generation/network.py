"""A MindSpore model as the engine's network. Shapes: R rows, T new tokens, N = R * T, S cache, D hidden, K kv heads,
G query heads of a group, E head_dim, P prefix, V vocabulary.

One layer is compiled, not L of them: a copy of the first block is handed the weights of each layer in turn (the
Parameters share memory, nothing is copied). So compiling takes a second or two however deep the network is, and with
every changing dimension declared as such it happens once for all lengths and batches. The cache stays in host memory,
which is the device's memory on a CPU: the graph reads it in place and returns only the new keys and values.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm.generation.cache import CacheShape, KVCache
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.ops.attention import MASKED

_WATCHED_SIZE = 1 << 20  # parameters of at most so many numbers are looked at to see whether weights have changed


class MindSporeNetwork:
    """A ChatGLM2ForConditionalGeneration behind the engine's `Network`, with adapters if it has some."""

    def __init__(self, model: nn.Cell) -> None:
        config, transformer = model.config, model.transformer
        self.vocab_size, self.max_length = config.padded_vocab_size, config.seq_length
        self.groups = config.num_attention_heads // config.num_kv_heads
        kept = np.float16 if config.compute_dtype == "float16" else np.float32
        self.shape = CacheShape(config.num_layers, config.num_kv_heads, config.kv_channels, kept)
        self._parameters = list(model.get_parameters())
        self._table = transformer.table.asnumpy()
        layers = list(transformer.encoder.layers)
        self._weights = [list(layer.get_parameters()) for layer in layers]
        self._embed = _Embed(transformer.embedding)
        self._prefix_of = model.prefix_encoder
        dtype = getattr(ms, config.compute_dtype)
        self._block = _Block(layers[0], dtype, self.shape, has_prefix=self._prefix_of is not None)
        self._head = _Head(transformer.encoder.final_layernorm, transformer.output_layer, config)
        self._mask = np.zeros((1, 1, self.groups, 1), np.float32)

    @property
    def compilations(self) -> int:
        """Graphs compiled so far; 0 in PyNative mode."""
        return sum(len(cell.compile_cache) for cell in (self._embed, self._block, self._head))

    def new_cache(self, rows: int) -> KVCache:
        """See Network."""
        return KVCache(self.shape, rows)

    def version(self) -> Hashable:
        """A few numbers of every parameter of moderate size: an optimizer step changes some of them."""
        return tuple(
            parameter.asnumpy().ravel()[:8].tobytes()
            for parameter in self._parameters
            if parameter.size <= _WATCHED_SIZE
        )

    def forward(
        self, tokens: np.ndarray, counts: np.ndarray, cache: KVCache, wanted: np.ndarray | None
    ) -> np.ndarray | None:
        """See Network."""
        rows, width = tokens.shape
        cache.reserve(int((cache.lengths + counts).max()))
        x = self._embed(Tensor(tokens))
        places = self._places(cache, width)
        prefix = self._prefix(rows)
        for layer, weights in enumerate(self._weights):
            self._block.take(weights)
            past = (Tensor.from_numpy(cache.keys[layer]), Tensor.from_numpy(cache.values[layer]))
            more = () if prefix is None else (Tensor(prefix[layer, 0]), Tensor(prefix[layer, 1]))
            x, keys, values = self._block(x, *places, *past, *more)
            cache.append(layer, keys.asnumpy(), values.asnumpy(), counts)
        cache.advance(counts)
        return None if wanted is None else self._head(x, Tensor(wanted)).asnumpy()

    def _places(self, cache: KVCache, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """cos, sin (N, 1, E) of the new tokens; their mask (1, 1, T * G, T), and the cache's (R, 1, 1, S)."""
        positions = cache.lengths[:, None] + np.arange(width)
        angles = self._table[np.minimum(positions, self.max_length - 1).ravel()]
        if self._mask.shape[3] != width:
            later = np.triu(np.full((width, width), MASKED, np.float32), 1)
            self._mask = np.repeat(later, self.groups, axis=0)[None, None]
        unused = np.arange(cache.slots) >= cache.lengths[:, None]
        past = np.where(unused, np.float32(MASKED), np.float32(0))[:, None, None]
        cos, sin = (np.ascontiguousarray(angles[:, side, None]) for side in (0, 1))
        return Tensor(cos), Tensor(sin), Tensor(self._mask), Tensor(past)

    def _prefix(self, rows: int) -> np.ndarray | None:
        """Trained keys and values before the first token, (L, 2, R, K, P, E)."""
        return None if self._prefix_of is None else self._prefix_of(rows).asnumpy()


class _Embed(nn.Cell):
    """Token ids (R, T) -> rows (N, D)."""

    def __init__(self, embedding: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.embedding = embedding
        self.set_inputs(_input((None, None), ms.int32))

    def construct(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)


class _Block(nn.Cell):
    """Any layer of the network over a cache: rows (N, D) -> rows, new keys and new values (R, K, T, E)."""

    def __init__(self, block: nn.Cell, dtype: ms.Type, shape: CacheShape, *, has_prefix: bool) -> None:
        super().__init__(auto_prefix=False)
        self.block, self.dtype = copy.deepcopy(block), dtype
        self.kept = ms.float16 if shape.dtype is np.float16 else ms.float32
        self.set_train(False)
        self.taken = list(self.block.get_parameters())
        channels = shape.head_dim
        rows = _input((None, shape.kv_heads, None, channels), self.kept)
        angles = _input((None, 1, channels))
        hidden = block.input_layernorm.weight.shape[0]
        self.set_inputs(
            _input((None, hidden), block.dtype),
            angles,
            angles,
            _input((1, 1, None, None)),
            _input((None, 1, 1, None)),
            *[rows] * (4 if has_prefix else 2),
        )

    def take(self, weights: list[Parameter]) -> None:
        """Lets the copy compute with the memory of these parameters."""
        for mine, theirs in zip(self.taken, weights, strict=True):
            mine.assign_value(theirs)

    def construct(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        past_mask: Tensor,
        keys: Tensor,
        values: Tensor,
        prefix_keys: Tensor | None = None,
        prefix_values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        past = ((ops.cast(keys, self.dtype), ops.cast(values, self.dtype), past_mask),)
        if prefix_keys is not None:
            past = ((prefix_keys, prefix_values, None), *past)
        x, new_keys, new_values = self.block.cached(x, cos, sin, mask, keys.shape[0], past)
        return x, ops.cast(new_keys, self.kept), ops.cast(new_values, self.kept)


class _Head(nn.Cell):
    """Rows (N, D) and the places of some -> their logits (., V) in float32."""

    def __init__(self, norm: nn.Cell | None, output_layer: nn.Cell, config: ChatGLM2Config) -> None:
        super().__init__(auto_prefix=False)
        self.norm, self.output_layer = norm, output_layer
        self.set_inputs(_input((None, config.hidden_size), getattr(ms, config.stream_dtype)), _input((None,), ms.int32))

    def construct(self, x: Tensor, places: Tensor) -> Tensor:
        x = ops.gather(x, places, 0)
        if self.norm is not None:
            x = self.norm(x)
        return ops.cast(self.output_layer(x), ms.float32)


def _input(shape: tuple, dtype: ms.Type = ms.float32) -> Tensor:
    return Tensor(shape=list(shape), dtype=dtype)
