"""Layers whose weight is held as integers."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindformers_glm.mindspore_private import forget_graphs
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.linear import INIT_SIGMA, Linear
from mindformers_glm.models.rounding import Rounding
from mindformers_glm.ops.linear import QuantizedMatmul, matrix_type, widened
from mindformers_glm.ops.quantized import SCALE, Quantized, layer_bits, packed_columns


class IntegerWeight(Rounding):
    """What has `weight` (N, packed) in int8, or uint8 for 4 bits, and `weight_scale` (N, in / group)."""

    weight: Parameter
    weight_scale: Parameter

    def hold(self, found: Quantized) -> None:
        """Takes integers as they are."""
        self.weight.set_data(Tensor.from_numpy(found.weight))  # they were made for this: no second copy
        self.weight_scale.set_data(Tensor.from_numpy(found.scale))


class QuantizedLinear(IntegerWeight, nn.Cell):
    """A linear layer whose weight is held as integers."""

    is_plain = False

    def __init__(
        self,
        columns: int,
        rows: int,
        *,
        bits: int,
        group_size: int,
        bias: Parameter | None,
        dtype: ms.Type,
        rounded: bool = False,
        scheme: str | None = None,
    ):
        nn.Cell.__init__(self)
        self.scheme = scheme
        self.in_channels, self.out_channels = columns, rows
        self.bits, self.group_size, self.dtype, self.bias = bits, group_size, dtype, bias
        self.matmul = QuantizedMatmul(bits=bits, columns=columns, rounded=rounded)
        self.weight, self.weight_scale = _empty(columns, rows, bits, group_size, "weight")

    def construct(self, x: Tensor) -> Tensor:
        """Rows x W^T + b in `compute_dtype`: (N, in) -> (N, out)."""
        return self.matmul(ops.cast(x, self.dtype), self.weight, self.weight_scale, self.bias)


class QuantizedEmbedding(IntegerWeight, nn.Cell):
    """The table of token vectors (V, D) as integers."""

    def __init__(self, columns: int, rows: int, *, bits: int, group_size: int, dtype: ms.Type):
        nn.Cell.__init__(self)
        self.in_channels, self.out_channels = columns, rows
        self.bits, self.group_size, self.dtype = bits, group_size, dtype
        table, scale = _empty(columns, rows, bits, group_size, "embedding_table")
        self.embedding_table, self.embedding_table_scale = table, scale

    @property
    def weight(self) -> Parameter:
        """The table."""
        return self.embedding_table

    @property
    def weight_scale(self) -> Parameter:
        """Its scales."""
        return self.embedding_table_scale

    def construct(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> rows (N, D) in the type of the hidden states."""
        ids = input_ids.reshape(-1)
        rows, scales = (ops.gather(held, ids, 0) for held in (self.embedding_table, self.embedding_table_scale))
        return ops.cast(widened(rows, scales, bits=self.bits, columns=self.in_channels), self.dtype)


def _empty(columns: int, rows: int, bits: int, group_size: int, name: str) -> tuple[Parameter, Parameter]:
    whole = (rows, packed_columns(columns, bits)), ms.int8 if bits == 8 else ms.uint8
    scale = (rows, columns // group_size), ms.float16
    made = ((*whole, name), (*scale, name + SCALE))  # no memory where networks are built unfilled
    weight, scales = (
        Parameter(initializer("zeros", shape, kind), name=called, requires_grad=False) for shape, kind, called in made
    )
    return weight, scales


def quantized_layers(model: nn.Cell) -> dict[str, IntegerWeight]:
    """The quantised layers of a network, by the names of their weights."""
    return {cell.weight.name: cell for _, cell in model.cells_and_names() if isinstance(cell, IntegerWeight)}


def fill_integers(model: nn.Cell, *, seed: int = 0) -> None:
    """Gives a network without weights random integers, whose floats spread as far as those of Normal(0.02)."""
    for i, cell in enumerate(quantized_layers(model).values()):
        random = np.random.default_rng((seed, i))
        whole = np.frombuffer(random.bytes(cell.weight.size), np.int8 if cell.bits == 8 else np.uint8)
        cell.weight.set_data(Tensor(whole.reshape(cell.weight.shape)))
        spread = INIT_SIGMA / (2**cell.bits / 12**0.5)  # of whole numbers that are all as likely
        cell.weight_scale.set_data(Tensor(np.full(cell.weight_scale.shape, spread, np.float16)))


def make_quantized(model: nn.Cell, config: NetworkConfig) -> dict[str, tuple[nn.Cell, IntegerWeight]]:
    """Replaces every plain linear layer by a quantised one that is still empty: path -> (the old, the new).

    `config` says of how many bits and groups, and whether the token embedding is among them.
    """
    replaced: dict[str, tuple[nn.Cell, IntegerWeight]] = {}
    cells, parts = dict(model.cells_and_names()), model.parts
    rounded = matrix_type(config.compute_dtype)[1]
    for path, cell in cells.items():
        made: IntegerWeight | None = None
        if type(cell) is Linear:
            bits = layer_bits(
                config.quantization_bit, is_head=cell is parts.head, head_bits=config.quantization_head_bits
            )
            if bits:
                made = QuantizedLinear(
                    cell.in_channels,
                    cell.out_channels,
                    bits=bits,
                    group_size=config.quantization_group_size or cell.in_channels,
                    bias=cell.bias,
                    dtype=cell.dtype,
                    rounded=rounded,
                    scheme=config.quantization_scheme,
                )
        elif config.quantization_embedding_bits and is_embedding(cell, parts.table):
            rows, columns = parts.table.shape
            group = config.quantization_group_size or columns
            bits = config.quantization_embedding_bits
            made = QuantizedEmbedding(columns, rows, bits=bits, group_size=group, dtype=cell.dtype)
        if made:
            parent, _, name = path.rpartition(".")
            setattr(cells[parent], name, made)
            replaced[path] = (cell, made)
    forget_graphs(model)  # graphs of the network as it was
    object.__setattr__(model, "_cached", None)
    for path, parameter in model.parameters_and_names():
        parameter.name = path  # a weight that moved into a new Cell has lost its path
    return replaced


def is_embedding(cell: nn.Cell, table: Parameter | None) -> bool:
    """Whether a Cell is the token embedding, with this table of its own."""
    return table is not None and any(one is table for one in cell._params.values()) and type(cell) is not Linear


def float_weight(cell: nn.Cell) -> np.ndarray:
    """The weight of a linear layer or an embedding (rows, columns) as float32."""
    held = cell.weight if isinstance(cell, Linear) else next(iter(cell.get_parameters()))
    return held.astype(ms.float32).asnumpy()
