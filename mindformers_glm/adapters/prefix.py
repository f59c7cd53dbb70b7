"""P-Tuning v2 (Liu et al., 2021): trained keys and values that every layer sees before the first token."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindformers_glm.adapters.config import PrefixConfig
from mindformers_glm.ops.linear import matrix_type

DELTA = "mindpet_delta_ptuning2"


class PrefixTable(nn.Cell):
    """One row for each prefix position: keys and values of all layers, [layer, key or value, kv head, channel]."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.embedding_table = Parameter(initializer(Normal(0.02), (rows, columns), ms.float32), name="embedding_table")


class PrefixEncoder(nn.Cell):
    """The prefix of every layer. P prefix length, L layers, K kv heads, E head_dim."""

    def __init__(self, config: PrefixConfig, *, num_layers: int, kv_heads: int, head_dim: int, dtype: str):
        super().__init__()
        self.shape = (config.pre_seq_len, num_layers, 2, kv_heads, head_dim)
        self.mindpet_delta_ptuning2_embedding = PrefixTable(config.pre_seq_len, num_layers * 2 * kv_heads * head_dim)
        self.drop = nn.Dropout(p=config.dropout_prob) if config.dropout_prob else None
        self.dtype = matrix_type(dtype)[0]

    def construct(self, batch: int) -> Tensor:
        """Keys and values (L, 2, B, K, P, E), the same for each sequence of the batch. Positions are not rotated."""
        table = self.mindpet_delta_ptuning2_embedding.embedding_table
        table = table if self.drop is None else self.drop(table)
        prefix = ops.cast(table, self.dtype).reshape(self.shape).transpose(1, 2, 3, 0, 4)
        layers, pair, kv_heads, length, head_dim = prefix.shape
        return ops.broadcast_to(prefix.expand_dims(2), (layers, pair, batch, kv_heads, length, head_dim))


def freeze_all_but_prefix(model: nn.Cell) -> None:
    """Leaves the prefix as the only thing that is trained."""
    for name, parameter in model.parameters_and_names():
        parameter.requires_grad = DELTA in name
