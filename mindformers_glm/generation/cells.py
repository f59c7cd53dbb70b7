"""The weights of a MindSpore model sorted by what they are for, and whether the kernels can compute the model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
from mindspore import Parameter, nn

from mindformers_glm.adapters.lora import LoraLinear, QuantizedLoraLinear
from mindformers_glm.models.described import (
    BlockWeights,
    LinearWeights,
    LowRank,
    NetworkWeights,
    NormWeights,
    WholeNumbers,
)
from mindformers_glm.models.linear import Linear, Norm
from mindformers_glm.models.quantized import IntegerWeight, QuantizedEmbedding, QuantizedLinear, quantized_layers
from mindformers_glm.models.w8a8 import W8A8Linear
from mindformers_glm.ops.linear import matrix_type
from mindformers_glm.parallel import layers, sharding

_WATCHED_SIZE = 1 << 20  # only parameters of at most so many numbers are compared to see whether weights have changed


def obstacles(model: nn.Cell) -> list[str]:
    """What keeps a model from being computed by the kernels; empty where nothing does."""
    config = model.config
    found = [
        f"{key} is {value}"
        for key, value in (
            ("compute_dtype", str(matrix_type(config.compute_dtype)[0]).lower()),
            ("layernorm_compute_type", config.layernorm_compute_type),
            ("the type of hidden states", config.stream_dtype),
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


def described(model: nn.Cell) -> NetworkWeights:
    """The weights of a model, in place: when parameters are trained or loaded, the kernels see the new values."""
    parts = model.parts
    table: Any = quantized_layers(model).get(parts.table.name)
    held = LinearWeights(parts.table) if table is None else _integers(table)
    blocks = tuple(
        BlockWeights(**{name: _part(getattr(block, name)) for name in BlockWeights._fields}) for block in parts.blocks
    )
    encoder = model.prefix_encoder
    return NetworkWeights(
        config=model.config,
        rotary=parts.rotary.asnumpy(),
        table=held,
        blocks=blocks,
        final_norm=None if parts.final_norm is None else _norm(parts.final_norm),
        head=linear(parts.head),
        prefix=None if encoder is None else encoder.mindpet_delta_ptuning2_embedding.embedding_table,
        version=partial(version_of, list(model.get_parameters())),
    )


def linear(cell: nn.Cell) -> LinearWeights:
    """The weights of a linear layer."""
    if isinstance(cell, W8A8Linear):
        return LinearWeights(cell.weight, cell.bias, whole=WholeNumbers(cell.deq_scale, cell.quant_bias, cell.input))
    found = _integers(cell) if isinstance(cell, IntegerWeight) else LinearWeights(cell.weight)
    found = found._replace(bias=cell.bias)
    if isinstance(cell, LoraLinear):
        return found._replace(low_rank=_low_rank(cell))
    return found


def _part(cell: nn.Cell | None) -> Any:
    return None if cell is None else _norm(cell) if isinstance(cell, Norm) else linear(cell)


def version_of(parameters: Sequence[Parameter]) -> Hashable:
    """A few numbers of every parameter of moderate size: an optimizer step changes some of them."""
    watched = (parameter for parameter in parameters if parameter.size <= _WATCHED_SIZE)
    return tuple(parameter.asnumpy().ravel()[:8].tobytes() for parameter in watched)


def _integers(cell: IntegerWeight) -> LinearWeights:
    return LinearWeights(cell.weight, scale=cell.weight_scale, group=cell.group_size)


def _low_rank(cell: LoraLinear) -> LowRank:
    magnitude: Any = cell.mindpet_delta_lora_m

    def factor() -> np.ndarray:
        return magnitude.asnumpy() / cell.sizes().asnumpy()

    return LowRank(
        cell.mindpet_delta_lora_a,
        cell.mindpet_delta_lora_b,
        cell.scale,
        cell.mindpet_delta_lora_m,
        factor,
        cell.merged,
    )


def _norm(cell: Norm) -> NormWeights:
    return NormWeights(cell.weight, cell.bias)
