"""A model on the CPU as the engine's network, computed by one compiled function over its weights and the KV cache.

Nothing is compiled at run time, whatever the lengths, and the kernels write new keys and values right into the cache.
Shapes: R sequences, T new tokens, K kv heads, E head_dim, P prefix, L layers, V vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.generation.adapters import AdapterTable
from mindformers_glm.generation.packed_weights import Merged, Packed, Packing, Whole
from mindformers_glm.generation.paged_cache import BlockPool, PagedCache
from mindformers_glm.models.described import (
    LINEAR,
    Held,
    LinearWeights,
    NetworkWeights,
    NormWeights,
    linear_layers,
)
from mindformers_glm.ops.kernels import library
from mindformers_glm.ops.kernels.memory import AT_ONCE, Arena
from mindformers_glm.ops.kernels.structures import (
    CACHE_KINDS,
    KINDS,
    LAYOUTS,
    UNKNOWN_ID,
    LayerStruct,
    LinearStruct,
    NetworkStruct,
    NormStruct,
    StepStruct,
    address,
    kind_of,
    usual_cache,
)

if TYPE_CHECKING:
    from mindspore import nn

_MOST_GUESSES = 256  # in one step, of all sequences
_NORMS = ("attention_norm", "mlp_norm", "after_attention", "after_mlp")  # the norms of a block


def _is_exact(weights: NetworkWeights) -> bool:
    layers = linear_layers(weights)
    return all(layer.whole is not None or kind_of(layer.weight.dtype) == KINDS["Float32"] for layer in layers)


def obstacles(model: nn.Cell) -> list[str]:
    """What keeps a MindSpore model from being computed this way; empty where nothing does."""
    from mindformers_glm.generation import cells  # noqa: PLC0415 - it needs MindSpore

    return cells.obstacles(model)


class KernelNetwork:
    """A network of any family as the engine's `AdaptedNetwork`, with an adapter of its own if it has one.

    Float weights are read in place: after training or loading, the next step computes with the new values. Integer
    weights are packed once, into the order in which kernels read them; after loading others, the next prompt packs
    these.
    """

    compilations = 0

    def __init__(
        self,
        model: nn.Cell | NetworkWeights,
        *,
        cache_dtype: str | None = "float32",
        cache_tokens: int | None = None,
    ) -> None:
        """`model` is a MindSpore model, or weights that need no MindSpore.

        `cache_dtype` is the type of keys and values in the KV cache, one of CACHE_KINDS: int8 has a scale for each
        head and token; None is `usual_cache`. Sequences and prefix cache together hold at most `cache_tokens` tokens.

        Raises:
            ConfigError: there is no such type.
        """
        weights = model if isinstance(model, NetworkWeights) else _described(model)
        has_exact_scores = cache_dtype is None
        if cache_dtype is None:
            cache_dtype = usual_cache(is_exact=_is_exact(weights))
        if cache_dtype not in CACHE_KINDS:
            raise ConfigError("cache_dtype", cache_dtype, f"Use one of {', '.join(CACHE_KINDS)}.")
        config = weights.config
        self.vocab_size, self.max_length = config.padded_vocab_size, config.seq_length
        self.cache_dtype, self.shape = cache_dtype, (config.num_layers, config.num_kv_heads, config.kv_channels)
        self._version, self._prefix_table = weights.version, weights.prefix
        self._has_floats = any(
            (layer.scale is None and layer.whole is None) or layer.low_rank is not None
            for layer in linear_layers(weights)
        )
        self._rotary = np.ascontiguousarray(weights.rotary)
        functions = library.library()
        assert functions is not None  # callers have asked first (assembly/engine.py, `obstacles`)
        self._functions = functions
        self._map = _Map(self._functions, is_fixed=weights.version is None)
        self._network = self._map.network(weights)
        self._network.rotary = address(self._rotary)
        self._tokens_as_alone = self._functions.glm_tokens_as_alone(ctypes.byref(self._network))
        self.blocks = self._pool(cache_dtype, cache_tokens)
        self._score_blocks = self._pool("float32", cache_tokens) if has_exact_scores else self.blocks
        self._space = self._functions.glm_new_workspace()
        self._finalizer = weakref.finalize(self, self._functions.glm_free_workspace, self._space)

    def new_cache(self, rows: int) -> PagedCache:
        """See Network."""
        return PagedCache(self.blocks, rows)

    def new_score_cache(self, rows: int) -> PagedCache:
        """A cache for scores: of float32 whatever the type of other caches, unless the user has chosen a type."""
        return PagedCache(self._score_blocks, rows)

    def cached(self, cache: PagedCache, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values (L, K, length, E) of a sequence, as float32."""
        layers, kv_heads, channels = self.shape
        length = int(cache.lengths[row])
        keys, values = (np.empty((layers, kv_heads, length, channels), np.float32) for _ in range(2))
        places = cache.prepare(np.zeros(cache.rows, np.int32))[row].copy()
        network, kind = ctypes.byref(self._network), CACHE_KINDS[cache.pool.dtype]
        self._functions.glm_read_cache(network, kind, address(places), length, address(keys), address(values))
        return keys, values

    def guesses_beside(self, rows: int, *, has_adapters: bool) -> int:
        """How many guesses a step of `rows` sequences may check, so that every number stays bit for bit the same as in
        a step without guesses. With float weights or adapters that holds for so many tokens of a step as the kernels
        say; products of more are summed in another order.
        """
        if self._has_floats or has_adapters:
            return max(0, self._tokens_as_alone - rows)
        return _MOST_GUESSES

    def is_exact(self, adapter: int) -> bool:
        """Whether a sequence with this adapter gets bit for bit the same numbers in whatever pieces it is computed."""
        return not (self._has_floats or adapter)

    def settle(self) -> None:
        """Returns when the weights are packed: those of a large network are while its first tokens are computed."""
        self._map.settle()

    def version(self) -> Hashable:
        """See Network."""
        return None if self._version is None else self._version()

    def forward(
        self, tokens: np.ndarray, counts: np.ndarray, cache: PagedCache, wanted: np.ndarray | None
    ) -> np.ndarray | None:
        """See Network."""
        rows, width = tokens.shape
        tokens, counts = np.ascontiguousarray(tokens, np.int32), np.ascontiguousarray(counts, np.int32)
        blocks = cache.prepare(counts)
        places = np.ascontiguousarray([] if wanted is None else wanted, np.int32)
        logits = np.empty((len(places), self.vocab_size), np.float32)
        given = (tokens, counts, cache.lengths, cache.adapters, blocks, places, logits)
        step = StepStruct(rows, width, len(places), blocks.shape[1], *(address(array) for array in given))
        step.cache_kind = CACHE_KINDS[cache.pool.dtype]
        self._aim(starts=bool(((cache.lengths == 0) & (counts > 0)).any()))
        library.library()  # sets the number of threads to what the setting says now
        with self._map.step:
            state = self._functions.glm_forward(ctypes.byref(self._network), ctypes.byref(step), self._space)
        if state == UNKNOWN_ID:
            raise self._unknown_id(tokens, counts)
        if state != 0:
            raise MemoryError(f"There is no memory left for {rows} sequences of {width} tokens in one step.")
        cache.advance(counts)
        return None if wanted is None else logits

    def add_adapter(self, adapter: nn.Cell | NetworkWeights) -> int:
        """See AdaptedNetwork. `adapter` is a network with LoRA over the weights of this one (`adapted`)."""
        weights = adapter if isinstance(adapter, NetworkWeights) else _described(adapter)
        return self._map.adapters.add(linear_layers(weights))

    def remove_adapter(self, number: int) -> None:
        """See AdaptedNetwork."""
        self._map.adapters.remove(number)

    @property
    def adapter_numbers(self) -> frozenset[int]:
        """The numbers of the adapters that it holds; 0 is its own."""
        return self._map.adapters.numbers

    def _pool(self, dtype: str, tokens: int | None) -> BlockPool:
        size = self._functions.glm_block_bytes(ctypes.byref(self._network), CACHE_KINDS[dtype])
        return BlockPool(size, dtype=dtype, max_tokens=tokens)

    def _unknown_id(self, tokens: np.ndarray, counts: np.ndarray) -> GenerationError:
        there = np.arange(tokens.shape[1]) < counts[:, None]
        row, place = np.argwhere(there & ((tokens < 0) | (tokens >= self.vocab_size)))[0]
        known = f"the model knows 0 to {self.vocab_size - 1}"
        return GenerationError(f"sequence {row} holds id {tokens[row, place]} and {known}")

    def _aim(self, *, starts: bool) -> None:
        """Sets the pointers to where the weights are now: MindSpore moves a parameter when its data is replaced."""
        self._map.aim()
        if starts:
            self._map.pack()
        if self._prefix_table is not None and (starts or not self._network.prefix):
            layers, kv_heads, channels = self.shape
            table = self._prefix_table.asnumpy()
            form = table.reshape(len(table), layers, 2, kv_heads, channels)
            self._prefix = np.ascontiguousarray(form.transpose(1, 2, 3, 0, 4), np.float32)
            self._network.prefix, self._network.prefix_length = address(self._prefix), len(table)


def _described(model: Any) -> NetworkWeights:
    from mindformers_glm.generation import cells  # noqa: PLC0415 - it needs MindSpore

    return cells.described(model)


class _Map:
    """The structures that describe a network, and the tensor that each of their pointers stands for."""

    def __init__(self, functions: ctypes.CDLL, *, is_fixed: bool) -> None:
        self._functions, self._is_fixed = functions, is_fixed
        self._is_aimed = self._is_packed = False
        self._pointers: list[tuple[ctypes.Structure, str, Held]] = []
        self._packed: list[Packed | Merged | Whole] = []
        self._packing: Packing | None = None
        self.adapters = AdapterTable(())

    def aim(self) -> None:
        """Sets every pointer."""
        if self._is_fixed and self._is_aimed:
            return
        for structure, field, held in self._pointers:
            setattr(structure, field, held.data_ptr())
        self._is_aimed = True

    def pack(self) -> None:
        """Packs integer weights that are new, and merges new adapters with DoRA."""
        if self._is_fixed and self._is_packed:
            return
        arena = None if self._is_packed else self._arena()
        later: list[Packed] = []
        if self._is_fixed and arena is not None and arena.nbytes > AT_ONCE:
            later = [packed for packed in self._packed if isinstance(packed, Packed)]
        for packed in self._packed:
            if packed not in later:
                packed.refresh(self._functions)
        if later and arena is not None:
            self._packing = Packing(later, self._functions, arena)
            weakref.finalize(self, self._packing.end)
        elif arena is not None:
            arena.settle()
        self._is_packed = True

    def settle(self) -> None:
        """Returns when nothing is packed any more while the network computes."""
        if self._packing is not None:
            self._packing.wait()

    @property
    def step(self) -> AbstractContextManager[object]:
        """What a step holds while its pointers must not change."""
        if self._packing is None or self._packing.is_done:
            return nullcontext()
        return self._packing

    def _arena(self) -> Arena:
        """The memory for all packed weights, shared out among them."""
        integers = [packed for packed in self._packed if not isinstance(packed, Merged)]
        arena = Arena(sum(packed.nbytes for packed in integers))
        for packed in integers:
            packed.take(arena)
        return arena

    def network(self, weights: NetworkWeights) -> NetworkStruct:
        """The structure of the whole network, without the rotary table and the prefix."""
        config = weights.config
        layers = (LayerStruct * config.num_layers)()
        made = NetworkStruct(
            layers=config.num_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.kv_channels,
            rotary_dim=config.rotary_dim,
            ffn=config.ffn_hidden_size,
            vocabulary=config.padded_vocab_size,
            length=config.seq_length,
            epsilon=config.layernorm_epsilon,
            is_grouped=config.multi_query_attention,
            residual_is_norm=config.apply_residual_connection_post_layernorm,
            has_final_norm=weights.final_norm is not None,
            layer=layers,
        )
        if weights.table.scale is None:
            self._matrix(made.embedding, weights.table.weight)
        else:
            self._rows(made.embedding, weights.table)
        structures = [made.head, *(getattr(layer, name) for layer in layers for name in LINEAR)]
        self.adapters = AdapterTable(structures)
        for place, (structure, layer) in enumerate(zip(structures, linear_layers(weights), strict=True)):
            self._linear(structure, layer, place)
        if weights.final_norm is not None:
            self._norm(made.final_norm, weights.final_norm)
        for structure, block in zip(layers, weights.blocks, strict=True):
            for name in _NORMS:
                if getattr(block, name) is not None:
                    self._norm(getattr(structure, name), getattr(block, name))
        return made

    def _linear(self, structure: LinearStruct, layer: LinearWeights, place: int) -> None:
        low = layer.low_rank
        has_magnitude = low is not None and low.magnitude is not None
        if layer.whole is not None:
            self._packed.append(Whole(structure, layer, is_fixed=self._is_fixed))
        elif layer.scale is not None:
            self._packed.append(Packed(structure, layer, is_fixed=self._is_fixed))
        elif has_magnitude:
            self._packed.append(Merged(structure, layer))
        else:
            self._matrix(structure, layer.weight)
        if layer.bias is not None:
            structure.bias_kind = kind_of(layer.bias.dtype)
            self._point(structure, "bias", layer.bias)
        if low is not None and not has_magnitude:
            down, up = LinearStruct(), LinearStruct()
            self._matrix(down, low.down)
            self._matrix(up, low.up)
            self.adapters.put_own(place, down, up, low.scale)

    def _matrix(self, structure: LinearStruct, held: Held) -> None:
        structure.rows, structure.columns = held.shape
        structure.kind = kind_of(held.dtype)
        self._point(structure, "weight", held)

    def _rows(self, structure: LinearStruct, table: LinearWeights) -> None:
        """A table of integers that is read in rows (token embedding); it is not packed."""
        assert table.scale is not None
        structure.rows, structure.columns = table.weight.shape[0], table.columns
        structure.kind, structure.group = kind_of(table.weight.dtype), table.group
        structure.layout = LAYOUTS["rows"]
        self._point(structure, "weight", table.weight)
        self._point(structure, "scale", table.scale)

    def _norm(self, structure: NormStruct, norm: NormWeights) -> None:
        structure.kind = kind_of(norm.weight.dtype)
        self._point(structure, "weight", norm.weight)
        if norm.bias is not None:
            self._point(structure, "bias", norm.bias)

    def _point(self, structure: ctypes.Structure, field: str, held: Held) -> None:
        self._pointers.append((structure, field, held))
