"""A model on the CPU as the engine's network, computed by one compiled function over its weights and the cache.

Nothing is compiled at run time, every length is welcome, and the new keys and values go straight into the cache.
Shapes: R rows, T new tokens, K kv heads, E head_dim, P prefix, L layers, V vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Hashable

import numpy as np
from mindspore import Parameter, nn

from mindformers_glm.adapters.lora import LoraLinear, QuantizedLoraLinear
from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.generation.adapters import AdapterTable, linear_layers
from mindformers_glm.generation.network import version_of
from mindformers_glm.generation.paged_cache import BlockPool, PagedCache
from mindformers_glm.models.linear import Linear, Norm
from mindformers_glm.models.quantized import IntegerWeight, QuantizedEmbedding, QuantizedLinear, quantized_layers
from mindformers_glm.models.w8a8 import W8A8Linear
from mindformers_glm.ops.kernels import library
from mindformers_glm.ops.kernels.structures import (
    CACHE_KINDS,
    KINDS,
    LAYOUTS,
    UNKNOWN_ID,
    W8A8,
    LayerStruct,
    LinearStruct,
    NetworkStruct,
    NormStruct,
    StepStruct,
    address,
)
from mindformers_glm.ops.linear import matrix_type
from mindformers_glm.parallel import layers, sharding

DEFAULT_CACHE = "float32"
_SAMPLES = 64  # numbers of an integer weight that are looked at to see whether it has changed


def obstacles(model: nn.Cell) -> list[str]:
    """What keeps a model from being computed this way; empty where nothing does."""
    config = model.config
    found = [
        f"{key} is {value}"
        for key, value in (
            ("compute_dtype", str(matrix_type(config.compute_dtype)[0]).lower()),
            ("layernorm_compute_type", config.layernorm_compute_type),
            ("the residual stream", config.stream_dtype),
        )
        if value != "float32"
    ]
    for path, cell in model.transformer.cells_and_names():
        if isinstance(cell, LoraLinear) and str(cell.delta_dtype) != "Float32":
            found.append(f"{path} computes its adapter in {cell.delta_dtype}")
        elif type(cell).__module__ in (layers.__name__, sharding.__name__):
            found.append(f"{path} is divided among devices")
        elif hasattr(cell, "weight") and type(cell) not in (
            Linear,
            LoraLinear,
            QuantizedLinear,
            QuantizedLoraLinear,
            QuantizedEmbedding,
            W8A8Linear,
            Norm,
        ):
            found.append(f"{path} is a {type(cell).__name__}")
        elif isinstance(cell, W8A8Linear) and cell.in_channels % 4:
            found.append(f"{path} has {cell.in_channels} columns, no multiple of 4")
    return found


class KernelNetwork:
    """A model of any family as the engine's `AdaptedNetwork`, with an adapter of its own if it has one.

    Float weights stay where they are: what trains or loads them is seen at the next step. Integer weights are packed
    into the order in which kernels read them, once; others that were loaded since are seen at the next prompt.
    """

    compilations = 0

    def __init__(self, model: nn.Cell, *, cache_dtype: str | None = None, cache_tokens: int | None = None) -> None:
        """`cache_dtype` is the type of keys and values in the cache, one of CACHE_KINDS: int8 has a scale for each
        head and token. All rows and kept prefixes together hold at most `cache_tokens` tokens.

        Raises:
            ConfigError: there is no such type.
        """
        cache_dtype = cache_dtype or DEFAULT_CACHE
        if cache_dtype not in CACHE_KINDS:
            raise ConfigError("cache_dtype", cache_dtype, f"Use one of {', '.join(CACHE_KINDS)}.")
        config, rotary = model.config, model.parts.rotary
        self.vocab_size, self.max_length = config.padded_vocab_size, config.seq_length
        self.cache_dtype, self.shape = cache_dtype, (config.num_layers, config.num_kv_heads, config.kv_channels)
        self._parameters = list(model.get_parameters())
        self._prefix_encoder = model.prefix_encoder
        self._rotary = np.ascontiguousarray(rotary.asnumpy())
        self._functions = library.library()
        self._map = _Map(self._functions)
        self._network = self._map.network(model)
        self._network.rotary = address(self._rotary)
        block_bytes = self._functions.glm_block_bytes(ctypes.byref(self._network), CACHE_KINDS[cache_dtype])
        self.blocks = BlockPool(block_bytes, max_tokens=cache_tokens)
        self._space = self._functions.glm_new_workspace()
        self._finalizer = weakref.finalize(self, self._functions.glm_free_workspace, self._space)

    def new_cache(self, rows: int) -> PagedCache:
        """See Network."""
        return PagedCache(self.blocks, rows)

    def cached(self, cache: PagedCache, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values (L, K, length, E) of a row, as float32."""
        layers, kv_heads, channels = self.shape
        length = int(cache.lengths[row])
        keys, values = (np.empty((layers, kv_heads, length, channels), np.float32) for _ in range(2))
        places = cache.prepare(np.zeros(cache.rows, np.int32))[row].copy()
        network, kind = ctypes.byref(self._network), CACHE_KINDS[self.cache_dtype]
        self._functions.glm_read_cache(network, kind, address(places), length, address(keys), address(values))
        return keys, values

    def version(self) -> Hashable:
        """See Network."""
        return version_of(self._parameters)

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
        step.cache_kind = CACHE_KINDS[self.cache_dtype]
        self._aim(starts=bool(((cache.lengths == 0) & (counts > 0)).any()))
        library.library()  # as many threads as the setting says now
        state = self._functions.glm_forward(ctypes.byref(self._network), ctypes.byref(step), self._space)
        if state == UNKNOWN_ID:
            raise self._unknown_id(tokens, counts)
        if state != 0:
            raise MemoryError(f"There is no memory left for {rows} rows of {width} tokens in one step.")
        cache.advance(counts)
        return None if wanted is None else logits

    def add_adapter(self, adapter: nn.Cell) -> int:
        """See AdaptedNetwork. `adapter` is a network with LoRA over the very weights of this one (`adapted`)."""
        return self._map.adapters.add(linear_layers(adapter.parts))

    def remove_adapter(self, number: int) -> None:
        """See AdaptedNetwork."""
        self._map.adapters.remove(number)

    def _unknown_id(self, tokens: np.ndarray, counts: np.ndarray) -> GenerationError:
        there = np.arange(tokens.shape[1]) < counts[:, None]
        row, place = np.argwhere(there & ((tokens < 0) | (tokens >= self.vocab_size)))[0]
        known = f"the model knows 0 to {self.vocab_size - 1}"
        return GenerationError(f"row {row} holds id {tokens[row, place]} and {known}")

    def _aim(self, *, starts: bool) -> None:
        """Points at the weights where they are now; MindSpore moves a parameter that is given new data."""
        self._map.aim()
        if starts:
            self._map.pack()
        if self._prefix_encoder is not None and (starts or not self._network.prefix):
            form = self._prefix_encoder.shape  # (P, L, 2, K, E)
            table = self._prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table.asnumpy()
            self._prefix = np.ascontiguousarray(table.reshape(form).transpose(1, 2, 3, 0, 4), np.float32)
            self._network.prefix, self._network.prefix_length = address(self._prefix), form[0]


class _Map:
    """Structures that describe a model, and which parameter each of their pointers means."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self._functions = functions
        self._pointers: list[tuple[ctypes.Structure, str, Parameter]] = []
        self._packed: list[_Packed | _Merged | _Whole] = []
        self.adapters = AdapterTable(())

    def aim(self) -> None:
        """Sets every pointer."""
        for structure, field, parameter in self._pointers:
            setattr(structure, field, parameter.data_ptr())

    def pack(self) -> None:
        """Packs the integer weights that are new, and merges such of DoRA."""
        for packed in self._packed:
            packed.refresh(self._functions)

    def network(self, model: nn.Cell) -> NetworkStruct:
        """The whole network, but for the rotary table and the prefix."""
        config, parts = model.config, model.parts
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
            has_final_norm=parts.final_norm is not None,
            layer=layers,
        )
        table = quantized_layers(model).get(parts.table.name)
        if table is None:
            self._matrix(made.embedding, parts.table)
        else:
            self._rows(made.embedding, table)
        blocks = [getattr(layer, name) for layer in layers for name in ("qkv", "out", "gate_up", "down")]
        self.adapters = AdapterTable([made.head, *blocks])
        for place, (structure, cell) in enumerate(zip([made.head, *blocks], linear_layers(parts), strict=True)):
            self._linear(structure, cell, place)
        if parts.final_norm is not None:
            self._norm(made.final_norm, parts.final_norm)
        for structure, block in zip(layers, parts.blocks, strict=True):
            for name in ("attention_norm", "mlp_norm", "after_attention", "after_mlp"):
                if getattr(block, name) is not None:
                    self._norm(getattr(structure, name), getattr(block, name))
        return made

    def _linear(self, structure: LinearStruct, cell: nn.Cell, place: int) -> None:
        if isinstance(cell, W8A8Linear):
            self._packed.append(_Whole(structure, cell))
            if cell.bias is not None:
                structure.bias_kind = KINDS["Float32"]
                self._point(structure, "bias", cell.bias)
            return
        has_magnitude = isinstance(cell, LoraLinear) and cell.mindpet_delta_lora_m is not None
        if isinstance(cell, IntegerWeight):
            self._packed.append(_Packed(structure, cell))
        elif has_magnitude:
            self._packed.append(_Merged(structure, cell))
        else:
            self._matrix(structure, cell.weight)
        if cell.bias is not None:
            structure.bias_kind = KINDS[str(cell.bias.dtype)]
            self._point(structure, "bias", cell.bias)
        if isinstance(cell, LoraLinear) and not has_magnitude:
            down, up = LinearStruct(), LinearStruct()
            self._matrix(down, cell.mindpet_delta_lora_a)
            self._matrix(up, cell.mindpet_delta_lora_b)
            self.adapters.put_own(place, down, up, cell.scale)

    def _matrix(self, structure: LinearStruct, parameter: Parameter) -> None:
        structure.rows, structure.columns = parameter.shape
        structure.kind = KINDS[str(parameter.dtype)]
        self._point(structure, "weight", parameter)

    def _rows(self, structure: LinearStruct, cell: IntegerWeight) -> None:
        """Integers that are looked up a row at a time, as they are."""
        structure.rows, structure.columns = cell.out_channels, cell.in_channels
        structure.kind, structure.group = KINDS[str(cell.weight.dtype)], cell.group_size
        structure.layout = LAYOUTS["rows"]
        self._point(structure, "weight", cell.weight)
        self._point(structure, "scale", cell.weight_scale)

    def _norm(self, structure: NormStruct, cell: nn.Cell) -> None:
        structure.kind = KINDS[str(cell.weight.dtype)]
        self._point(structure, "weight", cell.weight)
        if cell.bias is not None:
            self._point(structure, "bias", cell.bias)

    def _point(self, structure: ctypes.Structure, field: str, parameter: Parameter) -> None:
        self._pointers.append((structure, field, parameter))


class _Merged:
    """The weight of a layer with DoRA, merged: its rows change their length, which no kernel does."""

    def __init__(self, structure: LinearStruct, cell: LoraLinear) -> None:
        self.structure, self.cell, self.seen = structure, cell, None
        structure.rows, structure.columns = cell.weight.shape
        structure.kind = KINDS["Float32"]

    def refresh(self, functions: ctypes.CDLL) -> None:
        """Merges what the layer holds now, if that is something else than before."""
        cell = self.cell
        parts = (cell.weight, cell.mindpet_delta_lora_a, cell.mindpet_delta_lora_b, cell.mindpet_delta_lora_m)
        seen = [_sample(parameter.asnumpy()) for parameter in parts]
        if seen != self.seen:
            self.weight = np.ascontiguousarray(cell.merged(), np.float32)
            self.structure.weight, self.seen = address(self.weight), seen


class _Packed:
    """The integer weight of a layer, packed."""

    def __init__(self, structure: LinearStruct, cell: IntegerWeight) -> None:
        self.structure, self.cell, self.seen = structure, cell, None
        self.weight, self.scale = np.empty(cell.weight.shape, np.uint8), np.empty(cell.weight_scale.shape, np.float16)
        structure.weight, structure.scale = address(self.weight), address(self.scale)
        structure.rows, structure.columns = cell.out_channels, cell.in_channels  # two 4-bit columns share a byte
        structure.kind, structure.group = KINDS[str(cell.weight.dtype)], cell.group_size
        structure.layout = LAYOUTS["panels"]

    def refresh(self, functions: ctypes.CDLL) -> None:
        """Packs what the layer holds now, if that is something else than before."""
        weight, scale = (parameter.asnumpy() for parameter in (self.cell.weight, self.cell.weight_scale))
        samples = [_sample(array) for array in (weight, scale)]
        if samples == self.seen:
            return
        rows = LinearStruct.from_buffer_copy(self.structure)
        rows.weight, rows.scale, rows.layout = address(weight), address(scale), LAYOUTS["rows"]
        functions.glm_pack(ctypes.byref(rows), address(self.weight), address(self.scale))
        self.seen = samples


class _Whole:
    """A W8A8 layer, packed."""

    def __init__(self, structure: LinearStruct, cell: W8A8Linear) -> None:
        self.structure, self.cell, self.seen = structure, cell, None
        self.weight = np.empty(cell.weight.shape, np.uint8)
        structure.weight, structure.layout = address(self.weight), LAYOUTS["panels"]
        structure.rows, structure.columns = cell.out_channels, cell.in_channels
        structure.kind, structure.group = W8A8, cell.in_channels
        structure.input_scale, structure.input_offset = cell.input

    def refresh(self, functions: ctypes.CDLL) -> None:
        """Packs what the layer holds now, if that is something else than before."""
        given = [parameter.asnumpy() for parameter in (self.cell.weight, self.cell.deq_scale, self.cell.quant_bias)]
        samples = [_sample(array) for array in given]
        if samples == self.seen:
            return
        weight, self.scale, self.bias = given[0], given[1].copy(), given[2].copy()
        self.structure.row_scale, self.structure.row_bias = address(self.scale), address(self.bias)
        rows = LinearStruct.from_buffer_copy(self.structure)
        rows.weight, rows.layout = address(weight), LAYOUTS["rows"]
        functions.glm_pack(ctypes.byref(rows), address(self.weight), None)
        self.seen = samples


def _sample(array: np.ndarray) -> bytes:
    """Some numbers of an array, which tell whether it has changed."""
    return array.reshape(-1)[:: max(1, array.size // _SAMPLES)].tobytes()
