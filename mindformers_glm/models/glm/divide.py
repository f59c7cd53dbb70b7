"""A network whose large weights are divided over replicas: each keeps rows and joins them at each use (ZeRO 3)."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Parameter, nn

from mindformers_glm.adapters.lora import LoraLinear
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.layers import Linear
from mindformers_glm.models.glm.model import recomputed_parts
from mindformers_glm.parallel.layers import VocabParallelEmbedding
from mindformers_glm.parallel.mesh import Axis
from mindformers_glm.parallel.optimizer import is_divided
from mindformers_glm.parallel.sharding import JoinedMatmul, JoinedTable, JoinRows, own_rows


def divide_weights(model: nn.Cell, config: ChatGLM2Config, axis: Axis) -> nn.Cell:
    """The same model with rows of every large weight on each replica of `axis`; call it after `parallelize`.

    Linear layers and the embedding's table are divided where their rows divide; norms, biases and adapters are whole.
    """
    names = {id(parameter): parameter.name for parameter in model.get_parameters()}
    divided: dict[int, Parameter] = {}  # by the whole parameter: a tied table is one

    def own(parameter: Parameter) -> Parameter:
        if id(parameter) not in divided:
            divided[id(parameter)] = own_rows(parameter, axis)
            names[id(divided[id(parameter)])] = names[id(parameter)]
        return divided[id(parameter)]

    inside = {
        id(cell)
        for block, what in zip(model.transformer.encoder.layers, _recomputed(model, config), strict=True)
        if what == "all"
        for _, cell in block.cells_and_names()
    }
    for _, cell in list(model.cells_and_names()):
        if isinstance(cell, (Linear, LoraLinear)) and is_divided(cell.weight.shape, axis.size):
            frozen, sizes = not cell.weight.requires_grad, getattr(cell, "mindpet_delta_lora_m", None)
            biased = cell.bias is not None and sizes is None  # DoRA adds the bias after its factor
            remembers = id(cell) in inside
            cell.matmul = JoinedMatmul(cell.matmul, axis, frozen=frozen, biased=biased, remembers=remembers)
            cell.weight, cell.is_plain = own(cell.weight), False
            if sizes is not None:
                count = cell.weight.shape[0]
                cell.rows, cell.join_rows = (axis.rank * count, (axis.rank + 1) * count), JoinRows(axis)
    embedding = model.transformer.embedding
    if embedding is not None and is_divided(embedding.embedding_table.shape, axis.size):
        embedding.embedding_table = own(embedding.embedding_table)
        if isinstance(embedding, VocabParallelEmbedding):
            embedding.join = JoinRows(axis)
        else:
            model.transformer.embedding = JoinedTable(embedding, axis)
    for parameter in model.get_parameters():
        parameter.name = names[id(parameter)]
    return model


def _recomputed(model: nn.Cell, config: ChatGLM2Config) -> Sequence[str]:
    """What each layer of this part of the network computes again."""
    count, parts = len(model.transformer.encoder.layers), recomputed_parts(config)
    return parts[model.part.first : model.part.first + count]
