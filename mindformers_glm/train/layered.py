"""Gradients of a network that keeps what goes into each layer, and computes the layer again when its turn comes.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. MindSpore's own recomputation takes formulas for
kernels; here each layer is differentiated by itself, after the layer that follows it, so that its kernels stay and
what it keeps is there once. Shapes: B batch, T tokens, N = B * T rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops


class LayeredGradients(nn.Cell):
    """Loss () and gradients, as many as trained parameters, of factor * loss; as `_Gradients` of step.py gives them."""

    def __init__(self, network: nn.Cell, parameters: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        model = network.transformer
        self.network, self.model, self.layers = network, model, model.encoder.layers
        self.count = len(self.layers)
        self.end = _End(network, _among(parameters, [model.encoder.final_layernorm, model.output_layer]))
        self.backs = nn.CellList([_Back(layer, _among(parameters, [layer])) for layer in self.layers])
        self.begin = _Begin(model.embedding, _among(parameters, [model.embedding]))
        given = [*self.end.trained, *(p for back in reversed(self.backs) for p in back.trained), *self.begin.trained]
        places = [tuple(i for i, one in enumerate(given) if one is p) for p in parameters]
        assert all(places), [p.name for p, where in zip(parameters, places, strict=True) if not where]
        self.places = tuple(places)

    def construct(self, input_ids: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Ids (B, T) or packed planes (see the network), labels (B, T)."""
        ids, first, positions = self.network.planes(input_ids)
        batch = ids.shape[0]
        cos, sin, mask = self.model.seen(ids, first, positions)
        x = self.model.embedded(ids)
        kept: tuple[Tensor, ...] = ()
        for i in range(self.count):
            kept = (*kept, x)
            x = self.model.encoder.step(i, x, cos, sin, mask, batch, None, first)
        loss, dx, grads = self.end(x, labels, factor)
        for j in range(self.count):
            i = self.count - 1 - j
            dx, more = self.backs[i](ops.depend(kept[i], dx), dx, cos, sin, mask, batch, first)
            grads = (*grads, *more)
        grads = (*grads, *self.begin(ids, dx))
        ordered: tuple[Tensor, ...] = ()
        for where in self.places:
            total = grads[where[0]]
            for more_of_it in where[1:]:  # a tied table has two uses
                total = total + grads[more_of_it]
            ordered = (*ordered, total)
        return loss.astype(ms.float32).reshape(()), ordered


class _End(nn.Cell):
    """Loss, and the gradients of factor * loss for the last layer's rows and for what is trained after it."""

    def __init__(self, network: nn.Cell, trained: list[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.trained = trained
        self.any = bool(trained)
        self.grad = ms.value_and_grad(_Told(network), 0, ParameterTuple(trained) if trained else None, has_aux=True)

    def construct(self, rows: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        (_, loss), found = self.grad(rows, labels, factor)
        if self.any:
            return loss, found[0], found[1]
        return loss, found, ()


class _Told(nn.Cell):
    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, rows: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.network.transformer.encoder.norm(rows)
        loss = self.network.told(normed, labels.shape[0], labels.shape[1], labels)
        return loss * factor, loss


class _Back(nn.Cell):
    """What the gradient dy of a layer's rows makes of its input and of its trained weights."""

    def __init__(self, layer: nn.Cell, trained: list[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.trained = trained
        self.any = bool(trained)
        self.grad = ms.grad(_Pulled(layer), 0, ParameterTuple(trained) if trained else None)

    def construct(
        self, x: Tensor, dy: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, batch: int, first: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        found = self.grad(x, dy, cos, sin, mask, batch, first)
        if self.any:
            return found[0], found[1]
        return found, ()


class _Pulled(nn.Cell):
    """The sum of y * dy."""

    def __init__(self, layer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(
        self, x: Tensor, dy: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, batch: int, first: Tensor | None
    ) -> Tensor:
        if first is None:
            return (self.layer(x, cos, sin, mask, batch) * dy).sum()
        return (self.layer(x, cos, sin, mask, batch, None, None, first) * dy).sum()


class _Begin(nn.Cell):
    """What the gradient of its rows makes of the embedding."""

    def __init__(self, embedding: nn.Cell, trained: list[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.trained = trained
        self.any = bool(trained)
        self.grad: Any = ms.grad(_PulledTable(embedding), None, ParameterTuple(trained)) if trained else None

    def construct(self, ids: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        if not self.any:
            return ()
        return self.grad(ids, dy)


class _PulledTable(nn.Cell):
    def __init__(self, embedding: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.embedding = embedding

    def construct(self, ids: Tensor, dy: Tensor) -> Tensor:
        return (self.embedding(ids) * dy).sum()


def _among(parameters: Sequence[Parameter], cells: Sequence[nn.Cell | None]) -> list[Parameter]:
    own = {id(p) for cell in cells if cell is not None for p in cell.get_parameters()}
    return [p for p in parameters if id(p) in own]
