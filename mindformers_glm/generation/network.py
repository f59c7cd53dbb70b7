"""A MindSpore model as the engine's network. Shapes: R sequences, T new tokens, N = R * T, S cache, D hidden, K kv
heads, E head_dim, P prefix, L layers, V vocabulary.

One layer is compiled, not L of them: a copy of the first block gets the weights of each layer in turn (it shares their
memory, nothing is copied). So compilation takes a second or two however deep the network is, and because every varying
dimension is declared as dynamic it happens once for all lengths and batches. The KV cache stays in host memory, which
is the device's memory on a CPU: the graph reads it in place and returns only the new keys and values.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Hashable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.cache import CacheShape, KVCache
from mindformers_glm.generation.cells import version_of
from mindformers_glm.log import log_once
from mindformers_glm.mindspore_private import compiled_graphs
from mindformers_glm.ops.attention import MASKED
from mindformers_glm.ops.linear import matrix_type
from mindformers_glm.parallel.pipeline import Pipe

_PROBES = ((1, 2), (2, 3))  # sequences and tokens of two inputs that differ in every dimension


class MindSporeNetwork:
    """A model of any family as the engine's `Network`, with adapters if it has some."""

    def __init__(self, model: nn.Cell) -> None:
        config = model.config
        self.vocab_size, self.max_length = config.padded_vocab_size, config.seq_length
        dtype = np.float16 if config.compute_dtype == "float16" else np.float32
        layers = list(model.transformer.encoder.layers)
        kv_heads = model.parts.blocks[0].attention.kv_heads  # those of this rank
        self.shape = CacheShape(len(layers), kv_heads, config.kv_channels, dtype)
        self._pipe: Pipe | None = getattr(model, "pipe", None)  # of a pipeline stage, to its neighbours
        self._row = config.hidden_size, getattr(ms, config.stream_dtype)
        self._parameters = list(model.get_parameters())
        self._weights = [list(layer.get_parameters()) for layer in layers]
        is_first = self._pipe is None or self._pipe.before is None
        self._start = _Start(model.transformer) if is_first else _Middle(model.transformer, *self._row)
        blocks: dict[Hashable, _Block] = {}  # one copy computes all layers of one form
        for layer in layers:
            if _form(layer) not in blocks:
                blocks[_form(layer)] = _Block(layer, matrix_type(config.compute_dtype)[0], getattr(ms, dtype.__name__))
        self._blocks = [blocks[_form(layer)] for layer in layers]
        self._head: Any = _Head(model.transformer) if getattr(model, "is_last", True) else None
        self._is_declared, self._process = False, os.getpid()
        self._prefix = None if model.prefix_encoder is None else _Twin(model.prefix_encoder)

    @property
    def compilations(self) -> int:
        """Graphs compiled so far; 0 in PyNative mode."""
        cells = (self._start, *set(self._blocks), self._head)
        return sum(compiled_graphs(cell) for cell in cells if cell is not None)

    def new_cache(self, rows: int) -> KVCache:
        """See Network."""
        return KVCache(self.shape, rows)

    def version(self) -> Hashable:
        """See Network."""
        return version_of(self._parameters)

    def forward(
        self, tokens: np.ndarray, counts: np.ndarray, cache: KVCache, wanted: np.ndarray | None
    ) -> np.ndarray | None:
        """See Network.

        Raises:
            GenerationError: this process was forked after MindSpore had computed: it lacks the threads of MindSpore.
        """
        if self._is_declared and self._process != os.getpid():
            raise GenerationError(
                "this process was forked after MindSpore had computed, and has none of its threads: build the model "
                "after the fork, or start processes with 'spawn'"
            )
        if not self._is_declared:
            self._declare()
        rows, width = tokens.shape
        cache.reserve(int((cache.lengths + counts).max()))
        positions = np.minimum(cache.lengths[:, None] + np.arange(width), self.max_length - 1)
        x, *places = self._start(_tensor(tokens, np.int32), _tensor(positions, np.int32))
        unused = np.arange(cache.slots) >= cache.lengths[:, None]
        places.append(_tensor(np.where(unused, MASKED, 0)[:, None, None], np.float32))
        if self._pipe is None:
            x = self._layers(x, places, cache, counts)
            cache.advance(counts)
            return None if wanted is None else self._head(x, _tensor(wanted, np.int32)).asnumpy()
        width, dtype = self._row
        x = self._pipe.pass_through(
            lambda taken: self._layers(x if taken is None else taken, places, cache, counts),
            (tokens.size, width),
            dtype,
        )
        cache.advance(counts)
        if wanted is None:
            return None
        logits = None if self._head is None else self._head(x, _tensor(wanted, np.int32))
        return self._pipe.from_last(logits, (len(wanted), self.vocab_size)).asnumpy()

    def _layers(self, x: Tensor, places: Sequence[Tensor], cache: KVCache, counts: np.ndarray) -> Tensor:
        """Hidden states (N, D) after all layers; new keys and values are appended to the cache."""
        rows = len(counts)
        prefix = None if self._prefix is None else self._prefix(rows).asnumpy()  # (L, 2, R, K, P, E)
        for layer, (block, weights) in enumerate(zip(self._blocks, self._weights, strict=True)):
            block.take(weights)
            past = [Tensor.from_numpy(cache.keys[layer]), Tensor.from_numpy(cache.values[layer])]
            if prefix is not None:
                past += [Tensor(prefix[layer, 0]), Tensor(prefix[layer, 1])]
            x, keys, values = block(x, *places, *past)
            cache.append(layer, keys.asnumpy(), values.asnumpy(), counts)
        return x

    def _declare(self) -> None:
        """Declares to the graphs which dimensions vary: those in which two sample inputs differ."""
        if not runtime.is_graph_mode():
            log_once(
                "MindSpore is in PyNative mode: every operator of every token is dispatched from Python, which is many "
                "times slower than graph mode. mindformers_glm.runtime.set_up() selects graph mode."
            )
        ids = _input((None, None), ms.int32)
        self._start.set_inputs(ids, ids)
        probes = [self._start(*[Tensor(np.zeros(shape, np.int32))] * 2) for shape in _PROBES]
        places = [
            _input(
                tuple(size if size == other else None for size, other in zip(a.shape, b.shape, strict=True)), a.dtype
            )
            for a, b in zip(*probes, strict=True)
        ]
        past_mask = _input((None, 1, 1, None), ms.float32)
        layers, kv_heads, head_dim, _ = self.shape
        past = _input((None, kv_heads, None, head_dim), self._blocks[0].kept)
        prefix = _input((None, kv_heads, None, head_dim), self._blocks[0].dtype)
        more = [prefix] * 2 if self._prefix is not None else []
        for block in set(self._blocks):
            block.set_inputs(*places, past_mask, past, past, *more)
        if self._head is not None:
            self._head.set_inputs(places[0], _input((None,), ms.int32))
        self._is_declared, self._process = True, os.getpid()


class _Start(nn.Cell):
    """Token ids and positions (R, T) -> hidden states (N, D) and what the blocks need of the positions."""

    def __init__(self, transformer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cos, sin, mask = self.transformer.turned(positions)
        return self.transformer.embedding(tokens), cos, sin, mask


class _Middle(nn.Cell):
    """The same for a later pipeline stage: zeros stand for its hidden states, which come from the stage before."""

    def __init__(self, transformer: nn.Cell, width: int, dtype: ms.Type) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer
        self.zeros = Tensor(np.zeros((1, width), np.float32)).astype(dtype)

    def construct(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cos, sin, mask = self.transformer.turned(positions)
        return ops.gather(self.zeros, tokens.reshape(-1) * 0, 0), cos, sin, mask


class _Twin:
    """A copy of a Cell that shares its weights and has no dropout."""

    def __init__(self, cell: nn.Cell) -> None:
        self.copy = copy.deepcopy(cell).set_train(False)
        self.pairs = list(zip(self.copy.get_parameters(), cell.get_parameters(), strict=True))

    def __call__(self, *given: Any) -> Tensor:
        for mine, theirs in self.pairs:
            mine.assign_value(theirs)
        return self.copy(*given)


def _form(layer: nn.Cell) -> Hashable:
    """What is equal for layers that one copy can compute: classes of Cells, shapes and types of parameters."""
    kinds = tuple(type(cell).__name__ for _, cell in layer.cells_and_names())
    return kinds, tuple((tuple(p.shape), str(p.dtype)) for p in layer.get_parameters())


class _Block(nn.Cell):
    """A layer with a KV cache: hidden states (N, D) -> hidden states, new keys and new values (R, K, T, E)."""

    def __init__(self, block: nn.Cell, dtype: ms.Type, kept: ms.Type) -> None:
        super().__init__(auto_prefix=False)
        self.block, self.dtype, self.kept = copy.deepcopy(block), dtype, kept
        self.set_train(False)
        self.taken = list(self.block.get_parameters())

    def take(self, weights: list[Parameter]) -> None:
        """Makes the copy share the memory of these parameters."""
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
        past: tuple = ((ops.cast(keys, self.dtype), ops.cast(values, self.dtype), past_mask),)
        if prefix_keys is not None:
            past = ((prefix_keys, prefix_values, None), *past)
        x, new_keys, new_values = self.block.cached(x, cos, sin, mask, keys.shape[0], past)
        return x, ops.cast(new_keys, self.kept), ops.cast(new_values, self.kept)


class _Head(nn.Cell):
    """Hidden states (N, D) and the indices of some of them -> the logits (., V) of these in float32."""

    def __init__(self, transformer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, x: Tensor, places: Tensor) -> Tensor:
        x = self.transformer.encoder.norm(ops.gather(x, places, 0))
        return ops.cast(self.transformer.output_layer(x), ms.float32)


def _tensor(values: np.ndarray, dtype: type) -> Tensor:
    return Tensor(np.ascontiguousarray(values, dtype))


def _input(shape: Sequence[int | None], dtype: ms.Type) -> Tensor:
    return Tensor(shape=list(shape), dtype=dtype)
