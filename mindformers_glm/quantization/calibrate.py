"""Layers quantised for the rows that flow through them, one layer of the model in memory at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindformers_glm.checkpoint.formats.dtypes import bits_of, convert, is_finite
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.models.linear import Linear
from mindformers_glm.ops.quantized import dequantize
from mindformers_glm.ops.w8a8 import Layer, dequantized
from mindformers_glm.quantization.interface import Inputs, Scheme
from mindformers_glm.quantization.rounding import rounded
from mindformers_glm.quantization.smoothing import Columns, smoothed
from mindformers_glm.quantization.walk import Walk, Watched
from mindformers_glm.quantization.work import Work

W8A8_PARTS = ("quant_weight", "deq_scale", "quant_bias", "input_scale", "input_offset", "weight_scale", "fp_bias")
_SAMPLES = 1 << 18  # numbers of a block's inputs that are kept for percentiles
_TOKENS, _TOKENS_EACH = 16, 32  # blocks, and tokens of each, on which the error of outputs is told


@dataclass(frozen=True)
class Choice:
    """What is done to the layers of a model.

    - `float_layers`: numbers of layers, `float_linears`: ends of names, that stay float (W8A8);
    - `clip`: percent of the inputs that lie within the range, 100 all of them (W8A8);
    - `smooth`: how much of the inputs' spread over columns moves into the weight, 0 nothing;
    - `feeds_errors`: whether rounding sees the inputs (4 bits).
    """

    scheme: Scheme
    group_size: int = 0
    float_layers: frozenset[int] = frozenset()
    float_linears: tuple[str, ...] = ()
    clip: float = 100.0
    smooth: float = 0.0
    feeds_errors: bool = True

    @property
    def sees_squares(self) -> bool:
        """Whether rounding needs how inputs go together."""
        return self.scheme.bits == 4 and self.feeds_errors

    def stays_float(self, name: str, index: int) -> bool:
        """Whether a linear layer stays as it is."""
        return index in self.float_layers or name.rpartition(".")[2] in self.float_linears


def identity(source: WeightSource, rows: Sequence[Sequence[int]], choice: Choice) -> dict[str, Any]:
    """Everything that changes what calibration computes: the weights' files, the rows of ids, and the choice."""
    files = [[str(file.path), file.path.stat().st_size, file.path.stat().st_mtime_ns] for file in source.files]
    digest = hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()
    told = {key: value for key, value in vars(choice).items() if key != "scheme"}
    told["float_layers"] = sorted(choice.float_layers)
    return {"files": files, "rows": digest, "scheme": choice.scheme.name, **told}


class Lost(NamedTuple):
    """What a layer's weight lost: relative error of the weight, and of its outputs for the rows."""

    name: str
    weight: float
    outputs: float


@dataclass
class Seen:
    """What flowed into one linear layer: T rows of K columns; `squares` and `numbers` where rounding needs them."""

    needs_squares: bool = False
    needs_numbers: bool = False
    columns: Columns | None = None
    squares: np.ndarray | None = None
    count: int = 0
    numbers: list[np.ndarray] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)

    def add(self, x: np.ndarray) -> None:
        """Takes inputs (T, K)."""
        found = Columns(x.min(0), x.max(0))
        self.columns = found if self.columns is None else self.columns.joined(found)
        if self.needs_squares:
            product = x.T @ x
            self.squares = product if self.squares is None else self.squares + product
        self.count += len(x)
        if self.needs_numbers:
            flat = x.reshape(-1)
            self.numbers.append(flat[:: max(1, flat.size // _SAMPLES)].copy())
        if len(self.tokens) < _TOKENS:
            self.tokens.append(x[:: max(1, len(x) // _TOKENS_EACH)][:_TOKENS_EACH].copy())

    @property
    def mean_squares(self) -> np.ndarray:
        """The mean (K, K) of x x'."""
        assert self.squares is not None
        return self.squares / np.float32(max(self.count, 1))

    @property
    def some(self) -> np.ndarray:
        """Some of the inputs (T, K)."""
        return np.concatenate(self.tokens)


def calibrate(walk: Walk, work: Work, choice: Choice, *, shown: Callable[[], None] = lambda: None) -> list[Lost]:
    """Quantises every layer that `work` has not yet, and keeps it there; `shown` is called after each row and pass."""
    lost: list[Lost] = []
    walk.states = work.states([row.size for row in walk.rows])
    last = walk.config.num_layers - 1
    for index in range(work.done, walk.config.num_layers):
        stage = walk.layer(index)
        seen: dict[str, Seen] = {}
        with Watched(stage, _taking(seen, choice)) as watched:
            states = []
            for made in walk.outputs(stage):
                states.append(made if index < last else np.zeros((0, 1), np.float32))
                shown()
        tensors: dict[str, np.ndarray] = {}
        changed = smoothed(stage, {name: one.columns for name, one in seen.items()}, choice.smooth)
        kept = dict(changed.floats)
        for name, cell in watched.cells.items():
            if choice.stays_float(name, index):
                if f"{name}.weight" in changed.weights:
                    kept[f"{name}.weight"] = changed.weights[f"{name}.weight"]
                continue
            weight = changed.weights.get(f"{name}.weight", cell.weight.asnumpy())
            factor = changed.divisors.get(name)
            if choice.scheme.network_keys(choice.group_size)["quantization_bit"]:
                parts, floats, error = _integers(name, weight, seen[name], factor, choice)
            else:
                bias = None if cell.bias is None else changed.weights.get(f"{name}.bias", cell.bias.asnumpy())
                parts, floats, error = _whole(name, weight, bias, seen[name], factor, choice)
            tensors.update(parts)
            lost.append(error)
            _set(cell, floats, changed.weights.get(f"{name}.bias"))
        tensors.update({name: _as_in_file(value, walk.source.dtype(name)) for name, value in kept.items()})
        if choice.feeds_errors and index < last and "rows" not in choice.scheme.needs:
            states = []
            changed.apply(stage)
            for made in walk.outputs(stage):
                states.append(made)
                shown()
        walk.states = states
        work.write(index, tensors, states if index < last else None)
        del stage, watched
    return lost


def _as_in_file(value: np.ndarray, dtype: str) -> np.ndarray:
    """A float32 tensor in the type that the model's file has it in; as it is where it does not fit into that."""
    made = convert(np.ascontiguousarray(value), dtype)
    return made if is_finite(bits_of(made), dtype) else value


def _taking(seen: dict[str, Seen], choice: Choice) -> Callable[[str, np.ndarray], None]:
    return lambda name, x: seen.setdefault(name, Seen(choice.sees_squares, choice.clip < 100)).add(x)


def _integers(
    name: str, weight: np.ndarray, seen: Seen, factor: np.ndarray | None, choice: Choice
) -> tuple[dict[str, np.ndarray], np.ndarray, Lost]:
    group, columns = choice.group_size or weight.shape[1], weight.shape[1]
    if choice.sees_squares:
        squares = seen.mean_squares if factor is None else seen.mean_squares / np.outer(factor, factor)
        found = rounded(weight, squares, group_size=group).weight
    else:
        found = choice.scheme.quantise(weight, group_size=group)
    floats = dequantize(found, bits=choice.scheme.bits, columns=columns)
    parts = {f"{name}.weight": found.weight, f"{name}.weight_scale": found.scale}
    x = seen.some if factor is None else seen.some / factor
    return parts, floats, _lost(name, floats - weight, weight, x @ (floats - weight).T, x @ weight.T)


def _whole(
    name: str, weight: np.ndarray, bias: np.ndarray | None, seen: Seen, factor: np.ndarray | None, choice: Choice
) -> tuple[dict[str, np.ndarray], np.ndarray, Lost]:
    assert seen.columns is not None
    columns = seen.columns if factor is None else seen.columns.divided(factor)
    low, high = float(columns.low.min()), float(columns.high.max())
    if choice.clip < 100 and factor is None:
        share = (100 - choice.clip) / 200
        low, high = (float(value) for value in np.quantile(np.concatenate(seen.numbers), (share, 1 - share)))
    layer = choice.scheme.quantise(weight, group_size=0, bias=bias, inputs=Inputs(low, high))
    parts = {f"{name}.{key}": np.asarray(getattr(layer, key)) for key in W8A8_PARTS}
    floats = dequantized(layer)
    x = seen.some if factor is None else seen.some / factor
    exact = x @ weight.T + layer.fp_bias
    return parts, floats, _lost(name, floats - weight, weight, choice.scheme.matmul(x, layer) - exact, exact)


def layers_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Layer]:
    """The W8A8 layers among kept tensors."""
    names = [name.removesuffix(".quant_weight") for name in tensors if name.endswith(".quant_weight")]
    made = {}
    for name in names:
        parts = {key: tensors[f"{name}.{key}"] for key in W8A8_PARTS}
        made[name] = Layer(weight_offset=np.zeros_like(parts["weight_scale"]), **parts)
    return made


def _lost(name: str, error: np.ndarray, weight: np.ndarray, outputs: np.ndarray, exact: np.ndarray) -> Lost:
    return Lost(name, _share(error, weight), _share(outputs, exact))


def _share(lost: np.ndarray, whole: np.ndarray) -> float:
    return float(np.linalg.norm(lost)) / max(float(np.linalg.norm(whole)), 1e-30)


def _set(cell: Linear, weight: np.ndarray, bias: np.ndarray | None) -> None:
    cell.weight.set_data(Tensor(np.ascontiguousarray(weight), ms.float32))
    if bias is not None and cell.bias is not None:
        cell.bias.set_data(Tensor(np.ascontiguousarray(bias), ms.float32))
