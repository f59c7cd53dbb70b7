"""What each tensor-parallel rank holds of a weight: `cut` and its inverse `merge`, in NumPy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes, qkv_parts, weight
from mindformers_glm.optim.interface import parameter_of

_LORA = re.compile(r"\.mindpet_delta_lora_([ab])$")


@dataclass(frozen=True)
class Cut:
    """How one tensor is divided: along `axis` (None: every rank holds all of it), each of its `parts` alone.

    A part is (rows, pieces): with fewer pieces than ranks, neighbouring ranks hold the same piece.
    """

    axis: int | None
    parts: tuple[tuple[int, int], ...] = ()


class TensorDivision:
    """The division of a network of `config` among `size` tensor ranks: weights, adapters, optimizer states."""

    def __init__(self, config: ChatGLM2Config, size: int) -> None:
        self.config, self.size = config, size
        self._shapes = expected_shapes(config)

    def rule(self, name: str, shape: Sequence[int]) -> Cut:
        """How the tensor with our name is divided; what is no weight (counters, loss scale) is held by all.

        Raises:
            CheckpointError: the tensor cannot be divided among so many ranks.
        """
        plain = parameter_of(name)
        lora = _LORA.search(plain)
        row = weight(_LORA.sub(".weight", plain))
        axis = row.shard_axis if row is not None else None
        if lora is not None:  # y = B (A x): a row cut divides B, a column cut divides A
            axis = axis if axis is not None and "ba"[axis] == lora.group(1) else None
        if row is None or axis is None or self.size == 1:
            return Cut(None)
        sizes = row.parts(self.config) if row.parts is not None and axis == 0 else [shape[axis]]
        if sum(sizes) != shape[axis]:
            fault = f"axis {axis} has {shape[axis]} entries, the configuration says {sum(sizes)}"
            raise CheckpointError(name, fault, "Compare model_config with the checkpoint's.")
        return Cut(axis, tuple((rows, self._pieces(row.parts is qkv_parts and i > 0)) for i, rows in enumerate(sizes)))

    def _pieces(self, of_groups: bool) -> int:
        return min(self.size, self.config.num_kv_heads) if of_groups else self.size

    def cut(self, name: str, value: np.ndarray, rank: int) -> np.ndarray:
        """What `rank` holds of a whole tensor."""
        rule = self.rule(name, value.shape)
        if rule.axis is None:
            return value
        blocks, start = [], 0
        for rows, pieces in rule.parts:
            if rows % pieces:
                fault = f"{rows} entries along axis {rule.axis} do not divide among {pieces} ranks"
                raise CheckpointError(name, fault, "Use another number of tensor-parallel ranks.")
            length, own = rows // pieces, rank * pieces // self.size
            blocks.append(value.take(range(start + own * length, start + (own + 1) * length), axis=rule.axis))
            start += rows
        return np.concatenate(blocks, axis=rule.axis) if len(blocks) > 1 else blocks[0]

    def merge(self, name: str, values: Sequence[np.ndarray]) -> np.ndarray:
        """The whole tensor from the ranks' values in order: the inverse of `cut`, bit for bit."""
        whole = self.whole_shape(name, values[0].shape)
        rule = self.rule(name, whole)
        if rule.axis is None:
            return values[0]
        blocks, start = [], 0
        for rows, pieces in rule.parts:
            length = rows // pieces
            for piece in range(pieces):
                owner = values[piece * self.size // pieces]
                blocks.append(owner.take(range(start, start + length), axis=rule.axis))
            start += length
        return np.concatenate(blocks, axis=rule.axis)

    def whole_shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole tensor of which a rank holds `shape`."""
        plain = parameter_of(name)
        base = self._shapes.get(_LORA.sub(".weight", plain))
        lora = _LORA.search(plain)
        if base is None:
            return tuple(shape)
        if lora is None:
            return base
        return (shape[0], base[1]) if lora.group(1) == "a" else (base[0], shape[1])

    def shared_rows(self, name: str, shape: Sequence[int]) -> int | None:
        """First row (of a rank's part of `shape`) that neighbouring ranks hold alike; None where there is none."""
        rule = self.rule(name, self.whole_shape(name, shape))
        if rule.axis is None or all(pieces == self.size for _, pieces in rule.parts):
            return None
        return sum(rows // pieces for rows, pieces in rule.parts if pieces == self.size)


def local_config(config: ChatGLM2Config, size: int) -> ChatGLM2Config:
    """The configuration of the part of the network that one of `size` tensor ranks computes."""
    if size == 1:
        return config
    changes = {
        "num_attention_heads": config.num_attention_heads // size,
        "multi_query_group_num": max(config.num_kv_heads // size, 1),
        "ffn_hidden_size": config.ffn_hidden_size // size,
        "padded_vocab_size": config.padded_vocab_size // size,
    }
    return config.model_copy(update=changes)
