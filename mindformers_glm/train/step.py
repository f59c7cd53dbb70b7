"""One optimizer step: loss, gradients, reduction over ranks, finite check, clipping, update. Shapes: B batch, T tokens.

In graph mode a step is one compiled graph, or two with gradient accumulation (one for each micro batch, one for the
update); in PyNative the same code runs operator by operator. The host reads four numbers per step and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers_glm.assembly.reduction import Reduction
from mindformers_glm.data.batch import Batch
from mindformers_glm.errors import ConfigError
from mindformers_glm.labels import COUNT_EPSILON, IGNORED
from mindformers_glm.ops.token_range import require_token_range
from mindformers_glm.optim import LossScale, SquaredNorm, build_loss_scale, clip_coefficient, scale_gradients
from mindformers_glm.train.layered import LayeredGradients


class StepResult(NamedTuple):
    """What one step returns to the host."""

    loss: float  # mean over the supervised labels of the step, without loss scale
    overflow: bool  # gradients were not finite and the update was skipped
    loss_scale: float  # the scale this step was computed with
    grad_norm: float  # global norm before clipping, without loss scale
    learning_rate: float
    stop: bool  # some rank asks to stop after this step; equal on every rank


def require_division(network: nn.Cell, batches: Sequence[Batch]) -> None:
    """Raises ConfigError for a batch that does not divide as ranks that share its tokens need it."""
    sequence, rows = getattr(network, "tokens_divide_by", (1, 1))
    for batch in batches:
        count, tokens = batch.labels.shape
        if tokens % sequence:
            fix = f"A batch has sequences of {tokens} tokens: it must divide them."
            raise ConfigError("parallel_config.context_parallel", sequence, fix)
        if count * tokens // sequence % rows:
            fix = f"A batch of {count} x {tokens} tokens does not divide among {rows} tensor ranks: set False."
            raise ConfigError("parallel_config.use_seq_parallel", True, fix)


class TrainStep:
    """Callable that trains on the micro batches of one step.

    `network(input_ids, labels)` returns a scalar mean loss; gradients are taken for `optimizer.parameters` alone, so
    frozen weights cost nothing. With several micro batches the loss and gradients are those of one batch that holds
    all of them: each counts by its supervised labels (`token_weighted`), or, as MindFormers does, equally.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Cell,
        *,
        loss_scale: LossScale | None = None,
        max_grad_norm: float | None = None,
        accumulation: int = 1,
        token_weighted: bool = True,
        reduction: Reduction | None = None,
    ) -> None:
        if accumulation < 1:
            raise ConfigError("runner_config.gradient_accumulation_steps", accumulation, "Use 1 or more.")
        self.network, self.optimizer, self.accumulation = network, optimizer, accumulation
        self.loss_scale = loss_scale or build_loss_scale(None)
        self._vocabulary = getattr(getattr(network, "config", None), "padded_vocab_size", 0)
        network.set_train(True)
        again = getattr(network, "computes_layers_again", False)
        gradients = (LayeredGradients if again else _Gradients)(network, optimizer.parameters)
        reduction = reduction or Reduction()
        rescales = accumulation > 1 or not (self.loss_scale.fixed and self.loss_scale.value == 1.0)
        reduces = accumulation == 1 or not reduction.each  # otherwise it is done for each micro batch
        update = Update(optimizer, reduction, max_grad_norm=max_grad_norm, rescales=rescales, reduces=reduces)
        if accumulation == 1:
            self._whole: _Whole | None = _Whole(gradients, update)
        else:
            sums = Sums(optimizer.parameters, reduction)
            self._whole = None
            self._add = _Add(gradients, sums, reduction, accumulation=accumulation, token_weighted=token_weighted)
            self._apply = Apply(sums, update, token_weighted=token_weighted)

    def __call__(self, batches: Sequence[Batch], learning_rate: float, *, stop: bool = False) -> StepResult:
        """Trains on `accumulation` batches of (B, T); follows overflows with the loss scale.

        Raises:
            DataError: an id or a label that the network's vocabulary does not have.
            ConfigError: a batch does not divide as the ranks that share it need.
        """
        require_division(self.network, batches)
        for batch in batches if self._vocabulary else ():
            require_token_range(batch.input_ids, batch.labels, self._vocabulary, rows=batch.rows)
        scale = self.loss_scale.value
        host = [Tensor(value, ms.float32) for value in (scale, learning_rate, float(stop))]
        if self._whole is not None:
            (batch,) = batches
            numbers = self._whole(Tensor(batch.network_input()), Tensor(batch.labels), *host)
        else:
            unit = Tensor(1.0 / sum(batch.labels.size for batch in batches), ms.float32)
            for batch in batches:
                self._add(Tensor(batch.network_input()), Tensor(batch.labels), host[0], unit)
            numbers = self._apply(*host, unit)
        loss, norm, finite, stops = numbers.asnumpy().tolist()
        self.loss_scale.update(not finite)
        return StepResult(loss, not finite, scale, norm, learning_rate, stops > 0)


class _Scaled(nn.Cell):
    """(factor * loss, loss): what is differentiated, and what is shown."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, input_ids: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.network(input_ids, labels)
        return loss * factor, loss


class _Gradients(nn.Cell):
    """Loss () and gradients, as many as trained parameters, of factor * loss."""

    def __init__(self, network: nn.Cell, parameters: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.scaled = _Scaled(network)
        self.grad = ms.value_and_grad(self.scaled, None, parameters, has_aux=True)

    def construct(self, input_ids: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        (_, loss), grads = self.grad(input_ids, labels, factor)
        return loss.astype(ms.float32).reshape(()), grads


class Update(nn.Cell):
    """Reduces, checks, clips and applies gradients of factor * loss; returns [norm, finite, stop]."""

    def __init__(
        self,
        optimizer: nn.Cell,
        reduction: Reduction,
        *,
        max_grad_norm: float | None,
        rescales: bool,
        reduces: bool = True,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer, self.max_norm, self.rescales = optimizer, max_grad_norm, rescales
        self.rate = optimizer.learning_rate
        self.scales_itself = hasattr(optimizer, "scaled")
        self.reduce, self.ends = reduction.gradients if reduces else None, reduction.ends
        self.squared_norm = reduction.squared_norm or SquaredNorm()
        self.everyone = reduction.everyone

    def construct(
        self, grads: tuple[Tensor, ...], factor: Tensor, learning_rate: Tensor, stop: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        if self.reduce is not None:
            grads = self.reduce(grads)
        if self.ends is not None:
            grads = self.ends(grads)
        if self.everyone is not None:
            stop = self.everyone(stop)
        norm = ops.sqrt(self.squared_norm(grads)) / factor
        finite = ops.isfinite(norm)
        ops.assign(self.rate, learning_rate)
        if finite:
            norm = self.apply(grads, factor, norm)
        return norm, finite.astype(ms.float32), stop

    def apply(self, grads: tuple[Tensor, ...], factor: Tensor, norm: Tensor) -> Tensor:
        """Updates in place and returns the norm.

        Nothing need be computed from an optimizer's result: its operators declare that they write, so none is dropped
        and none is moved past a reader of what it writes.
        """
        if self.max_norm is not None:
            done = self.scaled(grads, clip_coefficient(norm, self.max_norm) / factor)
        elif self.rescales:
            done = self.scaled(grads, 1.0 / factor)
        else:
            done = self.optimizer(grads)
        return ops.depend(norm, done)

    def scaled(self, grads: tuple[Tensor, ...], factor: Tensor) -> Tensor | tuple:
        """Updates from factor * grads."""
        if self.scales_itself:
            return self.optimizer.scaled(grads, factor)
        return self.optimizer(scale_gradients(grads, factor))


class _Whole(nn.Cell):
    """A step without accumulation: [loss, norm, finite, stop]."""

    def __init__(self, gradients: nn.Cell, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.gradients, self.update = gradients, update

    def construct(
        self, input_ids: Tensor, labels: Tensor, scale: Tensor, learning_rate: Tensor, stop: Tensor
    ) -> Tensor:
        loss, grads = self.gradients(input_ids, labels, scale)
        norm, finite, stop = self.update(grads, scale, learning_rate, stop)
        return ops.stack((loss, norm, finite, stop))


class Share(nn.Cell):
    """(share of a micro batch in the step, what it adds to the step's weight): by its labels, or equal for all."""

    def __init__(self, reduction: Reduction, *, accumulation: int, token_weighted: bool) -> None:
        super().__init__(auto_prefix=False)
        self.equal_share, self.token_weighted = 1.0 / accumulation, token_weighted
        self.labels = reduction.labels

    def construct(self, labels: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, T) and 1 / (all positions of the step) -> two float32 scalars."""
        if not self.token_weighted:
            share = ops.ones((), ms.float32) * self.equal_share
            return share, share
        count = (labels != IGNORED).astype(ms.float32).sum()
        if self.labels is not None:
            count = self.labels(count)
        return (count + COUNT_EPSILON) * unit, count * unit  # the loss is divided by count + epsilon


class Sums(nn.Cell):
    """What micro batches add up to: float32 gradients (own rows, where they are reduced at once), loss and weight."""

    def __init__(self, parameters: Sequence[Parameter], reduction: Reduction) -> None:
        super().__init__(auto_prefix=False)
        shapes = reduction.owned or [parameter.shape for parameter in parameters]
        self.reduce = reduction.gradients if reduction.each else None
        self.grads = ParameterTuple([_zeros(f"sum.{p.name}", s) for p, s in zip(parameters, shapes, strict=True)])
        self.loss, self.weight = _zeros("sum_of_losses", ()), _zeros("sum_of_weights", ())
        self.size = len(self.grads)

    def add(self, grads: tuple[Tensor, ...], loss: Tensor, weight: Tensor) -> Tensor:
        """Adds one micro batch, and returns its loss."""
        if self.reduce is not None:
            grads = self.reduce(grads)
        for i in range(self.size):
            ops.assign_add(self.grads[i], grads[i].astype(ms.float32))
        ops.assign_add(self.loss, loss)
        ops.assign_add(self.weight, weight)
        return loss


class _Add(nn.Cell):
    """Adds the loss and gradients of one micro batch to the sums, each times its share of what is learned."""

    def __init__(
        self,
        gradients: nn.Cell,
        sums: Sums,
        reduction: Reduction,
        *,
        accumulation: int,
        token_weighted: bool,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.gradients, self.sums = gradients, sums
        self.share = Share(reduction, accumulation=accumulation, token_weighted=token_weighted)

    def construct(self, input_ids: Tensor, labels: Tensor, scale: Tensor, unit: Tensor) -> Tensor:
        share, weight = self.share(labels, unit)
        loss, grads = self.gradients(input_ids, labels, scale * share)
        return self.sums.add(grads, loss * share, weight)


class Apply(nn.Cell):
    """Updates from the sums and empties them: [loss, norm, finite, stop]."""

    def __init__(self, sums: Sums, update: Update, *, token_weighted: bool, over_stages: nn.Cell | None = None) -> None:
        super().__init__(auto_prefix=False)
        self.over_stages = over_stages
        self.sums, self.update, self.size = sums, update, len(sums.grads)
        self.epsilon = COUNT_EPSILON if token_weighted else 0.0

    def construct(self, scale: Tensor, learning_rate: Tensor, stop: Tensor, unit: Tensor) -> Tensor:
        """See the class."""
        grads: tuple[Tensor, ...] = ()
        for i in range(self.size):
            grads = (*grads, self.sums.grads[i].value())
        weight = self.sums.weight.value() + self.epsilon * unit
        loss = self.sums.loss.value() / weight
        if self.over_stages is not None:
            loss = self.over_stages(loss)
        norm, finite, stop = self.update(grads, scale * weight, learning_rate, stop)
        numbers = ops.stack((loss, norm, finite, stop))
        return ops.depend(numbers, self.empty(numbers))

    def empty(self, after: Tensor) -> Tensor:
        """Sets the sums to 0, once `after` has been computed."""
        for i in range(self.size):
            ops.assign(self.sums.grads[i], ops.zeros_like(self.sums.grads[i]))
        ops.assign(self.sums.loss, ops.zeros_like(self.sums.loss))
        ops.assign(self.sums.weight, ops.zeros_like(self.sums.weight))
        return after


def _zeros(name: str, shape: Sequence[int]) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name, requires_grad=False)
