"""A model on the processor as the engine's network, computed by one compiled function over its weights and the cache.

Nothing is compiled at run time, every length is welcome, and the new keys and values go straight into the cache.
Shapes: R rows, T new tokens, K kv heads, E head_dim, P prefix, L layers, V vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Hashable

import numpy as np
from mindspore import Parameter, nn

from mindformers_glm.adapters.lora import LoraLinear
from mindformers_glm.generation.cache import CacheShape, KVCache
from mindformers_glm.generation.network import version_of
from mindformers_glm.models.glm.layers import Linear, Norm
from mindformers_glm.models.glm.quantized import QuantizedLinear
from mindformers_glm.ops.kernels import library
from mindformers_glm.ops.kernels.structures import (
    KINDS,
    LayerStruct,
    LinearStruct,
    NetworkStruct,
    NormStruct,
    StepStruct,
    address,
)
from mindformers_glm.ops.linear import matrix_type
from mindformers_glm.parallel import layers


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
    if config.rotary_percent != 0.5:
        found.append(f"rotary_percent is {config.rotary_percent:g}")
    if config.post_self_attn_layernorm:
        found.append("attention and MLP are followed by norms")
    for path, cell in model.transformer.cells_and_names():
        if isinstance(cell, LoraLinear) and str(cell.delta_dtype) != "Float32":
            found.append(f"{path} computes its adapter in {cell.delta_dtype}")
        elif type(cell).__module__ == layers.__name__:
            found.append(f"{path} is divided among devices")
        elif hasattr(cell, "weight") and type(cell) not in (Linear, LoraLinear, QuantizedLinear, Norm):
            found.append(f"{path} is a {type(cell).__name__}")
    return found


class FusedNetwork:
    """A ChatGLM2ForConditionalGeneration behind the engine's `Network`, with adapters if it has some.

    The weights stay where they are: what trains or loads them is seen at the next step.
    """

    compilations = 0

    def __init__(self, model: nn.Cell) -> None:
        config, transformer = model.config, model.transformer
        self.vocab_size, self.max_length = config.padded_vocab_size, config.seq_length
        self.shape = CacheShape(config.num_layers, config.num_kv_heads, config.kv_channels)
        self._parameters = list(model.get_parameters())
        self._prefix_encoder = model.prefix_encoder
        self._rotary = np.ascontiguousarray(transformer.table.asnumpy())
        self._map = _Map()
        self._network = self._map.network(model)
        self._network.rotary = address(self._rotary)
        self._functions = library.library()
        self._space = self._functions.glm_new_workspace()
        self._finalizer = weakref.finalize(self, self._functions.glm_free_workspace, self._space)

    def new_cache(self, rows: int) -> KVCache:
        """See Network."""
        return KVCache(self.shape, rows)

    def version(self) -> Hashable:
        """See Network."""
        return version_of(self._parameters)

    def forward(
        self, tokens: np.ndarray, counts: np.ndarray, cache: KVCache, wanted: np.ndarray | None
    ) -> np.ndarray | None:
        """See Network."""
        rows, width = tokens.shape
        cache.reserve(int((cache.lengths + counts).max()))
        places = np.ascontiguousarray([] if wanted is None else wanted, np.int32)
        logits = np.empty((len(places), self.vocab_size), np.float32)
        tokens, counts = np.ascontiguousarray(tokens, np.int32), np.ascontiguousarray(counts, np.int32)
        given = (tokens, counts, cache.lengths, cache.keys, cache.values, places, logits)
        step = StepStruct(rows, width, cache.slots, len(places), *(address(array) for array in given))
        self._aim(starts=bool((cache.lengths == 0).any()))
        library.library()  # as many threads as the setting says now
        if self._functions.glm_forward(ctypes.byref(self._network), ctypes.byref(step), self._space) != 0:
            raise MemoryError(f"There is no memory left for {rows} rows of {width} tokens in one step.")
        cache.advance(counts)
        return None if wanted is None else logits

    def _aim(self, *, starts: bool) -> None:
        """Points at the weights where they are now; MindSpore moves a parameter that is given new data."""
        self._map.aim()
        if self._prefix_encoder is not None and (starts or not self._network.prefix):
            form = self._prefix_encoder.shape  # (P, L, 2, K, E)
            table = self._prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table.asnumpy()
            self._prefix = np.ascontiguousarray(table.reshape(form).transpose(1, 2, 3, 0, 4), np.float32)
            self._network.prefix, self._network.prefix_length = address(self._prefix), form[0]


class _Map:
    """Structures that describe a model, and which parameter each of their pointers means."""

    def __init__(self) -> None:
        self._pointers: list[tuple[ctypes.Structure, str, Parameter]] = []

    def aim(self) -> None:
        """Sets every pointer."""
        for structure, field, parameter in self._pointers:
            setattr(structure, field, parameter.data_ptr())

    def network(self, model: nn.Cell) -> NetworkStruct:
        """The whole network, but for the rotary table and the prefix."""
        config, transformer = model.config, model.transformer
        encoder, head = transformer.encoder, transformer.output_layer
        layers = (LayerStruct * config.num_layers)()
        made = NetworkStruct(
            layers=config.num_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.kv_channels,
            ffn=config.ffn_hidden_size,
            vocabulary=config.padded_vocab_size,
            length=config.seq_length,
            epsilon=config.layernorm_epsilon,
            is_grouped=config.multi_query_attention,
            residual_is_norm=config.apply_residual_connection_post_layernorm,
            has_final_norm=encoder.final_layernorm is not None,
            layer=layers,
        )
        self._matrix(made.embedding, transformer.embedding.embedding_table)
        self._linear(made.output_layer, head)
        if encoder.final_layernorm is not None:
            self._norm(made.final_layernorm, encoder.final_layernorm)
        for structure, layer in zip(layers, encoder.layers, strict=True):
            self._norm(structure.input_layernorm, layer.input_layernorm)
            self._norm(structure.post_attention_layernorm, layer.post_attention_layernorm)
            self._linear(structure.query_key_value, layer.self_attention.query_key_value)
            self._linear(structure.dense, layer.self_attention.dense)
            self._linear(structure.dense_h_to_4h, layer.mlp.dense_h_to_4h)
            self._linear(structure.dense_4h_to_h, layer.mlp.dense_4h_to_h)
        return made

    def _linear(self, structure: LinearStruct, cell: nn.Cell) -> None:
        self._matrix(structure, cell.weight)
        structure.columns = cell.in_channels  # two 4-bit columns share a byte
        if isinstance(cell, QuantizedLinear):
            structure.group = cell.group_size
            self._point(structure, "scale", cell.weight_scale)
        if cell.bias is not None:
            structure.bias_kind = KINDS[str(cell.bias.dtype)]
            self._point(structure, "bias", cell.bias)
        if isinstance(cell, LoraLinear):
            down, up = LinearStruct(), LinearStruct()
            self._matrix(down, cell.mindpet_delta_lora_a)
            self._matrix(up, cell.mindpet_delta_lora_b)
            structure.lora_a, structure.lora_b = ctypes.pointer(down), ctypes.pointer(up)
            structure.lora_scale = cell.scale

    def _matrix(self, structure: LinearStruct, parameter: Parameter) -> None:
        structure.rows, structure.columns = parameter.shape
        structure.kind = KINDS[str(parameter.dtype)]
        self._point(structure, "weight", parameter)

    def _norm(self, structure: NormStruct, cell: nn.Cell) -> None:
        structure.kind = KINDS[str(cell.weight.dtype)]
        self._point(structure, "weight", cell.weight)
        if cell.bias is not None:
            self._point(structure, "bias", cell.bias)

    def _point(self, structure: ctypes.Structure, field: str, parameter: Parameter) -> None:
        self._pointers.append((structure, field, parameter))
