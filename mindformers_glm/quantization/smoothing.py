"""The spread of a layer's inputs over their columns, moved into the weight: an equal network that rounds better.

What feeds a linear layer is divided by a factor for each column, and the columns of its weight are multiplied by it.
The division goes into the norm before query, key, value and before the MLP, and into the rows of `up` before the MLP's
second layer (silu(gate) * up / s is what it should be). Xiao et al., SmoothQuant, 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

_LEAST = 1e-5


class Columns(NamedTuple):
    """The least and the largest input of each column."""

    low: np.ndarray
    high: np.ndarray

    def joined(self, other: Columns) -> Columns:
        """Of both."""
        return Columns(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def divided(self, factor: np.ndarray) -> Columns:
        """Of inputs divided by positive factors."""
        return Columns(self.low / factor, self.high / factor)

    @property
    def size(self) -> np.ndarray:
        """The largest absolute value of each column."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


@dataclass
class Smoothed:
    """Weights that changed, by our names; those of norms are `floats` too. `divisors` (K) of each layer's inputs."""

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    floats: dict[str, np.ndarray] = field(default_factory=dict)
    divisors: dict[str, np.ndarray] = field(default_factory=dict)

    def apply(self, stage: nn.Cell) -> None:
        """Gives a stage the norms that changed; its linear layers have been given theirs."""
        for parameter in stage.get_parameters():
            if parameter.name in self.floats:
                parameter.set_data(Tensor(self.floats[parameter.name], ms.float32))


def smoothed(stage: nn.Cell, seen: Mapping[str, Columns | None], strength: float) -> Smoothed:
    """The weights of a stage of one layer after smoothing with max|x|^strength / max|w|^(1 - strength)."""
    made = Smoothed()
    if not strength:
        return made
    block = stage.parts.blocks[0]
    if not getattr(stage.config, "apply_residual_connection_post_layernorm", False):
        for norm, cell in ((block.attention_norm, block.qkv), (block.mlp_norm, block.gate_up)):
            name = _name(cell)
            weight = cell.weight.asnumpy()
            factor = _factor(seen[name], weight, strength)
            made.divisors[name] = factor
            made.weights[f"{name}.weight"] = weight * factor
            for parameter in (norm.weight, norm.bias):
                if parameter is not None:
                    made.floats[parameter.name] = parameter.asnumpy() / factor
    up, down = _name(block.gate_up), _name(block.down)
    weight = block.down.weight.asnumpy()
    factor = _factor(seen[down], weight, strength)
    made.divisors[down] = factor
    made.weights[f"{down}.weight"] = weight * factor
    joined = made.weights.get(f"{up}.weight", block.gate_up.weight.asnumpy()).copy()
    joined[len(joined) // 2 :] /= factor[:, None]
    made.weights[f"{up}.weight"] = joined
    if block.gate_up.bias is not None:
        bias = block.gate_up.bias.asnumpy().copy()
        bias[len(bias) // 2 :] /= factor
        made.weights[f"{up}.bias"] = made.floats[f"{up}.bias"] = bias
    return made


def _factor(seen: Columns | None, weight: np.ndarray, strength: float) -> np.ndarray:
    """Factors (K) whose geometric mean is 1."""
    assert seen is not None
    inputs = np.maximum(seen.size, _LEAST)
    columns = np.maximum(np.abs(weight).max(0), _LEAST)
    factor = inputs**strength / columns ** (1 - strength)
    factor /= np.exp(np.log(factor).mean())
    return np.clip(factor, 1e-3, 1e3).astype(np.float32)


def _name(cell: nn.Cell) -> str:
    return cell.weight.name.removesuffix(".weight")
