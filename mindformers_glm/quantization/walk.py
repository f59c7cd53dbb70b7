"""Rows of text on their way through a model of which one layer is in memory at a time.

The layers are the stages of a pipeline of one layer each, built one after the other and loaded from the model's own
files; between them the hidden states of all rows are kept. So calibration takes the memory of one layer in float32 and
of the rows, whatever the size of the model.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindformers_glm.assembly.pieces import stage_with_weights
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import DataError
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.linear import Linear

_WIDE = {"param_init_type": "float32", "compute_dtype": "float32", "embedding_type": "float32"}
_TOGETHER = 1024  # tokens of rows that go through a layer together
_PLAIN = {"quantization_bit": 0, "quantization_scheme": None, "quantization_embedding_bits": 0}


class Walk:
    """Sequences of ids as they enter the first layer of a model, and then as they leave one layer after the other."""

    def __init__(self, source: WeightSource, config: NetworkConfig, rows: Sequence[Sequence[int]]) -> None:
        """The process must be in PyNative mode, in which what flows can be looked at.

        Raises:
            DataError: there is no row.
        """
        if not rows:
            raise DataError("calibration", "there is no row", "Name a file of texts")
        self.rows = [np.asarray(row, np.int32) for row in rows]
        self.blocks = _blocks(self.rows)
        longest = max(sum(len(self.rows[row]) for row in block) for block in self.blocks)
        changes = {**_WIDE, **_PLAIN, "seq_length": longest, "pet_config": None, "pre_seq_len": 0}
        self.source = source
        self.config = config.model_copy(update=changes)
        self.states: list[np.ndarray] | None = None  # (T, D) of each row, as it left the layers that are done
        self.stages = FAMILIES.of(self.config).staged(self.config, (1,) * self.config.num_layers)

    def layer(self, index: int) -> nn.Cell:
        """The stage with layer `index` and float32 weights; the first has the embedding, the last the head."""
        gc.collect()  # Cells refer to each other in circles: the stages before would stay, each with its weights
        return stage_with_weights(self.source, self.config, self.stages.part(index))

    def outputs(self, stage: nn.Cell) -> Iterator[np.ndarray]:
        """What a stage makes of each row's states, in order: states (T, D), of the last logits (T, V).

        Several rows go through together, end to end, none attending to those before it.
        """
        for block in self.blocks:
            ids = np.concatenate([self.rows[row] for row in block])
            lengths = [len(self.rows[row]) for row in block]
            begins = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
            planes = Tensor(np.stack([ids, begins]).astype(np.int32)[None])
            states = None if self.states is None else Tensor(np.concatenate([self.states[row] for row in block]))
            made = stage(planes, None, states).asnumpy()
            yield from np.split(made.reshape(-1, made.shape[-1]), np.cumsum(lengths)[:-1])

    def step(self, stage: nn.Cell) -> None:
        """Takes the rows as they leave a stage."""
        self.states = list(self.outputs(stage))


def _blocks(rows: Sequence[np.ndarray]) -> list[list[int]]:
    """Neighbouring rows of at most so many tokens together, or one longer row: their numbers."""
    made: list[list[int]] = []
    total = _TOGETHER + 1
    for number, row in enumerate(rows):
        total += len(row)
        if total > _TOGETHER:
            made.append([])
            total = len(row)
        made[-1].append(number)
    return made


class Watched:
    """Linear layers of a stage with what flows into them: `see` is given the layer's name and inputs (T, K)."""

    def __init__(self, stage: nn.Cell, see: Callable[[str, np.ndarray], None]) -> None:
        head = stage.parts.head
        self.cells = {
            cell.weight.name.removesuffix(".weight"): cell
            for _, cell in stage.cells_and_names()
            if type(cell) is Linear and cell is not head
        }
        self._handles = [cell.register_forward_pre_hook(_hook(name, see)) for name, cell in self.cells.items()]

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()


def _hook(name: str, see: Callable[[str, np.ndarray], None]) -> Callable[[nn.Cell, tuple], None]:
    def hook(_: nn.Cell, inputs: tuple) -> None:
        see(name, inputs[0].asnumpy())

    return hook
