"""Single operators of a layer, as the network calls them: forward, and forward with gradients.

Shapes: B batch, T tokens, N = B * T rows, D hidden, H heads, K kv heads, G = H / K, E head_dim, F ffn, V vocabulary.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers_glm.benchmark.machine import Machine
from mindformers_glm.benchmark.settings import Settings
from mindformers_glm.benchmark.timing import repeated, seconds
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.build import build_model
from mindformers_glm.models.interface import BlockParts
from mindformers_glm.optim import AdamW, SquaredNorm, decay_groups


class Operator(NamedTuple):
    """A Cell and what it is given. `flop` counts a matmul's operations forward, 0 for what moves numbers only."""

    name: str
    cell: nn.Cell
    inputs: tuple[Tensor, ...]
    weights: tuple[Parameter, ...] = ()
    flop: int = 0
    has_gradient: bool = True


class Operators:
    """The operators of one layer, the loss and the update, for a training batch."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.random = np.random.default_rng(0)
        self.model = build_model(settings.config(layers=1)).set_train(True)

    def measure(self) -> dict[str, Any]:
        """Median milliseconds of each operator; `compile_s` is what all of them took to compile."""
        rows, compiling = [], 0.0
        for operator in self.chosen():
            row, compiled = self.time(operator)
            rows.append(row)
            compiling += compiled
        return {"operators": rows, "compile_s": compiling}

    def chosen(self) -> list[Operator]:
        """Everything that a training step is made of, or what `only` selects.

        Raises:
            ConfigError: a name selects nothing.
        """
        layer = self.model.parts.blocks[0]
        found = [*self.matmuls(layer), *self.movers(layer), self.attention(layer), self.loss(), *self.updates()]
        for part in self.settings.only:
            if not any(part in operator.name for operator in found):
                raise ConfigError("--only", part, f"Use parts of {', '.join(operator.name for operator in found)}.")
        only = self.settings.only or ("",)
        return [operator for operator in found if any(part in operator.name for part in only)]

    def matmuls(self, layer: BlockParts) -> list[Operator]:
        """The four linear layers."""
        cells = {"qkv": layer.qkv, "out": layer.out, "gate_up": layer.gate_up, "down": layer.down}
        return [
            Operator(
                f"linear {name}",
                cell,
                (self.numbers(self.rows, cell.in_channels),),
                (cell.weight,),
                2 * self.rows * cell.in_channels * cell.out_channels,
            )
            for name, cell in cells.items()
        ]

    def movers(self, layer: BlockParts) -> list[Operator]:
        """RMSNorm, SwiGLU and rotary positions: memory limits them, not arithmetic.

        Rotary is not among them where attention does it itself.
        """
        shape = self.settings.shape
        norm = layer.attention_norm
        found = [
            Operator("rms_norm", _First(norm), (self.numbers(self.rows, shape.hidden),), (norm.weight,)),
            Operator("swiglu", layer.mlp.activation, (self.numbers(self.rows, 2 * shape.ffn),)),
        ]
        if not self.is_whole(layer):
            cos, sin, _ = self.places()
            heads = (self.settings.batch, shape.heads + 2 * shape.kv_groups, self.settings.length, shape.head_dim)
            found.append(Operator("rotary", layer.attention.rotate, (self.numbers(*heads), cos, sin)))
        return found

    def attention(self, layer: BlockParts) -> Operator:
        """Causal attention between its projections; half of the pairs count.

        As the layer does it: rotary positions and attention in one kernel ("rotary and attention") where that is used,
        the formula of attention alone ("attention") elsewhere.
        """
        shape, batch, tokens = self.settings.shape, self.settings.batch, self.settings.length
        flop = 4 * shape.hidden * batch * (tokens * (tokens + 1) // 2)
        cos, sin, mask = self.places()
        if self.is_whole(layer):
            inputs = (self.projected(), cos, sin)
            return Operator("rotary and attention", layer.attention.whole, inputs, (), flop)
        q = self.numbers(batch, shape.kv_groups, shape.heads // shape.kv_groups * tokens, shape.head_dim)
        k, v = (self.numbers(batch, shape.kv_groups, tokens, shape.head_dim) for _ in range(2))
        return Operator("attention", layer.attention.core, (q, k, v, mask), (), flop)

    def is_whole(self, layer: BlockParts) -> bool:
        """Whether the layer trains on one kernel for rotary positions and attention."""
        attention, (cos, _, mask) = layer.attention, self.places()
        return attention.may_be_whole and attention.whole.takes(self.projected(), cos, mask)

    def projected(self) -> Tensor:
        """Rows q | k | v (N, (H + 2 K) E)."""
        shape = self.settings.shape
        return self.numbers(self.rows, (shape.heads + 2 * shape.kv_groups) * shape.head_dim)

    def loss(self) -> Operator:
        """Output layer and cross entropy together."""
        shape, head = self.settings.shape, self.model.parts.head
        labels = Tensor(self.random.integers(0, shape.vocab, self.rows).astype(np.int32))
        return Operator(
            "head cross_entropy",
            _Loss(self.model.head_loss, head.weight),
            (self.numbers(self.rows, shape.hidden), labels),
            (head.weight,),
            2 * self.rows * shape.hidden * shape.vocab,
        )

    def updates(self) -> list[Operator]:
        """Gradient norm and AdamW for this one layer and both tables."""
        optimizer = AdamW(decay_groups(self.model.trainable_params(), 0.01), learning_rate=1e-4)
        grads = tuple(Tensor(np.full(p.shape, 1e-3, np.float32)) for p in optimizer.parameters)
        return [
            Operator("gradient norm", SquaredNorm(), (grads,), has_gradient=False),
            Operator("adamw", optimizer, (grads,), has_gradient=False),
        ]

    def time(self, operator: Operator) -> tuple[dict[str, Any], float]:
        """Its row, and the seconds that compiling took. With gradients a matmul has three times the operations."""
        forward, compiled = self.median(lambda: _wait(operator.cell(*operator.inputs)))
        row = {"name": operator.name, "forward_ms": forward * 1e3, "flop": operator.flop, "bytes": _bytes(operator)}
        if operator.has_gradient:
            sens = _like(operator.cell(*operator.inputs), self.random)
            gradient = _Gradient(operator.cell, operator.weights)
            both, again = self.median(lambda: _wait(gradient(sens, *operator.inputs)))
            row["gradient_ms"] = both * 1e3
            compiled += again
        return row, compiled

    def median(self, work: Callable[[], None]) -> tuple[float, float]:
        """Seconds of a usual call, and what the first took beyond it."""
        first = seconds(work)
        usual = statistics.median(repeated(work, self.settings.steps))
        return usual, max(0.0, first - usual)

    def shares(self, figures: dict[str, Any], machine: Machine) -> dict[str, Any]:
        """Of each operator forward: the part of matrix speed for matmuls, of memory speed for the others."""
        for row in figures["operators"]:
            second = row["forward_ms"] / 1e3
            if row["flop"]:
                row["matrix_share"] = row["flop"] / second / machine.matrix_flop_per_s
            else:
                row["memory_share"] = row["bytes"] / second / machine.memory_bytes_per_s
        return {}

    @property
    def rows(self) -> int:
        """N."""
        return self.settings.batch * self.settings.length

    def numbers(self, *shape: int) -> Tensor:
        """Random activations in float32."""
        return Tensor(self.random.standard_normal(shape, np.float32))

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine, sine and mask of a batch, as the network makes them."""
        positions = Tensor(np.arange(self.settings.length, dtype=np.int32).reshape(1, -1))
        return _Places(self.model.transformer)(positions)


class _Places(nn.Cell):
    def __init__(self, transformer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.transformer.turned(positions)


class _First(nn.Cell):
    """The first result of a Cell."""

    def __init__(self, cell: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


class _Loss(nn.Cell):
    def __init__(self, loss: nn.Cell, weight: Parameter) -> None:
        super().__init__(auto_prefix=False)
        self.loss, self.weight = loss, weight

    def construct(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return self.loss(hidden, self.weight, labels)


class _Gradient(nn.Cell):
    """Gradients of a Cell for all inputs and for `weights`, from the gradient of its result."""

    def __init__(self, cell: nn.Cell, weights: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.weights = ParameterTuple(weights)
        by_list = bool(weights)
        self.gradient = ops.GradOperation(get_all=True, get_by_list=by_list, sens_param=True)
        self.cell, self.by_list = cell, by_list

    def construct(self, sens: Any, *inputs: Tensor) -> Any:
        if self.by_list:
            return self.gradient(self.cell, self.weights)(*inputs, sens)
        return self.gradient(self.cell)(*inputs, sens)


def _bytes(operator: Operator) -> int:
    """Bytes of inputs, weights and results: what must move at least once. The update moves weights and moments."""
    if operator.name == "adamw":
        return 7 * _size(operator.inputs)  # reads gradient, weight and two moments, writes three of them
    result = operator.cell(*operator.inputs)
    return _size((operator.inputs, operator.weights, result))


def _size(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(map(_size, value))
    return value.size * value.itemsize


def _like(result: Any, random: np.random.Generator) -> Any:
    if isinstance(result, tuple):
        return tuple(_like(part, random) for part in result)
    return Tensor(random.standard_normal(result.shape).astype(np.float32)).astype(result.dtype)


def _wait(result: Any) -> None:
    while isinstance(result, tuple):
        result = result[0]
    result.asnumpy()
