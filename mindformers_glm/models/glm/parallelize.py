"""A ChatGLM2 network over several processes: the same network with fewer heads, channels and tokens, and all-reduces.

The network itself knows nothing of ranks. Each rank builds it at its own size; then the layers whose input or output
is incomplete are wrapped, and embedding and loss are replaced by their vocabulary-parallel forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
from mindspore import nn

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.shards import TensorDivision, local_config
from mindformers_glm.models.glm.stages import stages_of
from mindformers_glm.models.glm.weights import TABLE
from mindformers_glm.ops.cross_entropy import CrossEntropy
from mindformers_glm.parallel.layers import (
    ColumnParallel,
    ParallelCrossEntropy,
    ParallelHead,
    RowParallel,
    ShareOfLoss,
    VocabParallelEmbedding,
)
from mindformers_glm.parallel.mesh import SINGLE, TIED, Axis, Mesh, check_tensor_parallel
from mindformers_glm.parallel.sharding import JoinRows, JoinTokens, OwnTokens, SplitSum, Switched

_ADAPTER = "mindpet_delta_lora_"


class Named(Protocol):
    """A parameter, or what stands for the part of one that a tensor rank has."""

    name: str
    shape: tuple[int, ...]


class Partial(NamedTuple):
    """A parameter whose gradient is complete only after a sum over `axis`, from row `start` on."""

    axis: Axis
    start: int


def check_network(config: ChatGLM2Config, mesh: Mesh) -> None:
    """Raises ConfigError when the network cannot be divided along this grid."""
    if mesh.stage.size > 1:
        stages_of(config, mesh.stage.size)
        if config.has_prefix:
            fix = "The prefix is not divided among stages: set parallel_config.pipeline_stage: 1."
            raise ConfigError("model.model_config.pet_config.pet_type", "ptuning2", fix)
    if mesh.context.size > 1 and config.has_prefix:
        fix = "A prefix is not seen by parts of a sequence: set parallel_config.context_parallel: 1."
        raise ConfigError("model.model_config.pet_config.pet_type", "ptuning2", fix)
    check_tensor_parallel(config, mesh.tensor.size)
    if mesh.tensor.size > 1 and config.quantization_bit:
        fix = "Integer weights are not divided among tensor ranks: use float weights, or one process."
        raise ConfigError("model.model_config.quantization_bit", config.quantization_bit, fix)
    kind = (config.pet_config or {}).get("pet_type")
    if mesh.tensor.size > 1 and kind in ("ptuning2", "prefixtuning"):
        fix = "The prefix is not divided among tensor ranks: set parallel_config.model_parallel: 1."
        raise ConfigError("model.model_config.pet_config.pet_type", kind, fix)
    if mesh.tensor.size > 1 and (config.pet_config or {}).get("use_dora"):
        fix = "DoRA's rows are not divided among tensor ranks: set parallel_config.model_parallel: 1, or use LoRA."
        raise ConfigError("model.model_config.pet_config.use_dora", True, fix)


def parallelize(model: nn.Cell, config: ChatGLM2Config, mesh: Mesh) -> nn.Cell:
    """The same model working along the grid; it must have been built with `local_config(config, mesh.tensor.size)`.

    Call it last, after adapters are attached. Parameter names do not change; values are this rank's parts.
    """
    names = {id(parameter): parameter.name for parameter in model.get_parameters()}
    if mesh.tensor.size > 1:
        _wrap(model.transformer, mesh.tensor)
    if mesh.divides_rows:
        _divide_rows(model.transformer, mesh.tensor)
    if mesh.context.size > 1:
        model.own = OwnTokens(mesh.context)
        model.transformer.share_of_sequence = (mesh.context.rank, mesh.context.size)
        for block in model.transformer.encoder.layers:
            block.self_attention.join = JoinTokens(mesh.context)
    model.tokens_divide_by = (mesh.context.size, mesh.tensor.size if mesh.divides_rows else 1)
    if mesh.size > 1:
        model.loss = ParallelCrossEntropy(mesh.tensor, mesh.replicas)
    if mesh.replicas.size > 1:
        model.share = ShareOfLoss(mesh.replicas)  # of the loss that a whole output layer computes
    for parameter in model.get_parameters():
        parameter.name = names[id(parameter)]  # a weight that moved into another Cell has lost its path
    model.config = model.config.model_copy(update={"padded_vocab_size": config.padded_vocab_size})  # whole logits
    return model


@contextmanager
def loss_of_this_rank(model: nn.Cell, mesh: Mesh) -> Iterator[None]:
    """Within it the loss of a network that is trained by data ranks together is that of this rank's batch alone.

    Its graph for evaluation must be compiled here first: MindSpore keeps what it compiled.
    """
    if mesh.replicas.size == 1:
        yield
        return
    kept = model.loss, model.share
    model.loss = ParallelCrossEntropy(mesh.tensor, SINGLE.data) if mesh.tensor.size > 1 else CrossEntropy()
    model.share = None
    try:
        yield
    finally:
        model.loss, model.share = kept


def _wrap(transformer: nn.Cell, axis: Axis) -> None:
    for block in transformer.encoder.layers:
        attention, mlp = block.self_attention, block.mlp
        attention.query_key_value = ColumnParallel(attention.query_key_value, axis)
        attention.dense = RowParallel(attention.dense, axis)
        mlp.dense_h_to_4h = ColumnParallel(mlp.dense_h_to_4h, axis)
        mlp.dense_4h_to_h = RowParallel(mlp.dense_4h_to_h, axis)
    embedding = transformer.embedding
    if embedding is not None:
        transformer.embedding = VocabParallelEmbedding(embedding.embedding_table, axis, dtype=embedding.dtype)
    if transformer.output_layer is not None:
        transformer.output_layer = ParallelHead(transformer.output_layer, axis)


def partial_gradients(parameters: Sequence[Named], config: ChatGLM2Config, mesh: Mesh) -> dict[int, Partial]:
    """Positions of parameters whose gradient a tensor rank sees only a part of, though it holds all they touch.

    These are key and value rows that several ranks hold (each rank has other query heads), and the side of a LoRA
    adapter that is not divided. Their gradients are added up after the backward pass. So are those of a table that is
    tied to the output layer, of which the first and the last stage of a pipeline have a part each.
    """
    division, found = TensorDivision(config, mesh.tensor.size), {}
    for position, parameter in enumerate(parameters):
        if parameter.name == TABLE and is_on_two_stages(config, mesh):
            ends = (mesh.stage.ranks[0], mesh.stage.ranks[-1])
            found[position] = Partial(Axis(TIED, ends, min(mesh.stage.rank, 1)), 0)
        if mesh.tensor.size == 1:
            continue
        start = division.shared_rows(parameter.name, parameter.shape)
        if mesh.divides_rows and _sees_own_rows(parameter.name):
            found[position] = Partial(mesh.tensor, 0)
        elif start is not None:
            found[position] = Partial(_sharers(mesh.tensor, config.num_kv_heads), start)
        elif _ADAPTER in parameter.name and division.rule(parameter.name, _whole(division, parameter)).axis is None:
            found[position] = Partial(mesh.tensor, 0)
    return found


def square_shares(parameters: Sequence[Named], config: ChatGLM2Config, mesh: Mesh) -> list[float | np.ndarray]:
    """For each parameter, 1 / (ranks of one copy of the network that hold the same rows): one number, or one a row."""
    size = mesh.tensor.size
    division = TensorDivision(config, size)
    shares: list[float | np.ndarray] = []
    for parameter in parameters:
        if parameter.name == TABLE and is_on_two_stages(config, mesh):
            shares.append(0.5)
            continue
        start = division.shared_rows(parameter.name, parameter.shape)
        if division.rule(parameter.name, _whole(division, parameter)).axis is None:
            shares.append(1.0 / size)
        elif start is None:
            shares.append(1.0)
        else:
            rows = np.ones(parameter.shape[0], np.float32)
            rows[start:] = config.num_kv_heads / size
            shares.append(rows)
    return shares


def _divide_rows(transformer: nn.Cell, axis: Axis) -> None:
    """Between the layers that are cut, a tensor rank has its rows of the batch alone (Megatron's sequence parallel).

    Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, 2022. While generating, rows stay
    whole: those of one token do not divide.
    """
    for block in transformer.encoder.layers:
        for column, row in (
            (block.self_attention.query_key_value, block.self_attention.dense),
            (block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h),
        ):
            column.enter = Switched(JoinRows(axis), column.enter)
            row.leave = Switched(SplitSum(axis), row.leave)
    if transformer.embedding is not None:
        transformer.embedding.leave = Switched(SplitSum(axis), transformer.embedding.leave)
    if transformer.output_layer is not None:
        transformer.output_layer.enter = Switched(JoinRows(axis), transformer.output_layer.enter)


def _sees_own_rows(name: str) -> bool:
    """True for a parameter that is applied to divided rows: norms, and biases that are added after a sum."""
    return "norm" in name or name.endswith((".dense.bias", ".dense_4h_to_h.bias"))


def is_on_two_stages(config: ChatGLM2Config, mesh: Mesh) -> bool:
    """True where the first and the last stage of a pipeline hold the same table."""
    return mesh.stage.size > 1 and config.tie_word_embeddings


class RankWeights(Mapping):
    """The weights of a whole network as the part of one tensor rank, cut when read: for `load_into`."""

    def __init__(self, source: Mapping[str, np.ndarray], division: TensorDivision, rank: int) -> None:
        self._source, self._division, self._rank = source, division, rank

    def __getitem__(self, name: str) -> np.ndarray:
        return self._division.cut(name, self._source[name], self._rank)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def _sharers(axis: Axis, groups: int) -> Axis:
    """The neighbours along `axis` that hold the same key-value group."""
    count = axis.size // groups
    first = axis.rank // count * count
    return Axis(f"{axis.name}-kv", axis.ranks[first : first + count], axis.rank - first)


def _whole(division: TensorDivision, parameter: Named) -> tuple[int, ...]:
    return division.whole_shape(parameter.name, parameter.shape)


def local_size(config: ChatGLM2Config, mesh: Mesh) -> ChatGLM2Config:
    """The configuration to build this rank's network with.

    Raises:
        ConfigError: the network cannot be divided along this grid.
    """
    check_network(config, mesh)
    return local_config(config, mesh.tensor.size)
