"""One optimizer step of one stage of a pipeline. Shapes: B batch, T tokens, N = B * T rows, D hidden.

A stage keeps only what came in of each micro batch that is on its way; its backward pass computes the forward pass
again, in one graph. So a stage that waits for gradients holds N x D numbers a micro batch, whatever `recompute_config`
says of the layers within. The last stage computes both passes at once and nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from mindformers_glm.assembly.reduction import Reduction
from mindformers_glm.config.sections import ParallelSection
from mindformers_glm.data.batch import Batch
from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.token_range import require_token_range
from mindformers_glm.optim import LossScale, build_loss_scale
from mindformers_glm.parallel.mesh import Axis, Mesh
from mindformers_glm.parallel.pipeline import SCHEDULERS, Pipe, run
from mindformers_glm.train.step import Apply, Share, StepResult, Sums, TrainStep, Update, require_division


class PipelineStep:
    """Callable like TrainStep, on one stage; `accumulation` micro batches pass through the stages one after the other.

    `network(input_ids, labels, rows)` is one stage: it takes the hidden states (N, D) of the stage before and gives its
    own, or the loss at the last one.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Cell,
        stage: Axis,
        *,
        loss_scale: LossScale | None = None,
        max_grad_norm: float | None = None,
        accumulation: int = 1,
        token_weighted: bool = True,
        reduction: Reduction | None = None,
        scheduler: str = "1f1b",
    ) -> None:
        if accumulation < 1:
            raise ConfigError("parallel_config.micro_batch_num", accumulation, "Use 1 or more.")
        self.network, self.optimizer, self.accumulation = network, optimizer, accumulation
        self.loss_scale = loss_scale or build_loss_scale(None)
        self._config, self._scheduler = network.config, scheduler
        self._pipe = getattr(network, "pipe", None) or Pipe(stage)
        network.set_train(True)
        reduction, is_last = reduction or Reduction(), stage.rank + 1 == stage.size
        sums = Sums(optimizer.parameters, reduction)
        share = Share(reduction, accumulation=accumulation, token_weighted=token_weighted)
        self._forward = None if is_last else _Forward(network)
        if is_last:
            self._backward = _LastBackward(network, optimizer.parameters, sums, share)
        elif stage.rank == 0:
            self._backward = _FirstBackward(network, optimizer.parameters, sums, share)
        else:
            self._backward = _Backward(network, optimizer.parameters, sums, share)
        update = Update(optimizer, reduction, max_grad_norm=max_grad_norm, rescales=True, reduces=not reduction.each)
        self._apply = Apply(sums, update, token_weighted=token_weighted, over_stages=reduction.stages)

    def __call__(self, batches: Sequence[Batch], learning_rate: float, *, stop: bool = False) -> StepResult:
        """As TrainStep: every stage is given the same batches.

        Raises:
            DataError: an id or a label that the network's vocabulary does not have.
        """
        require_division(self.network, batches)
        for batch in batches:
            require_token_range(batch.input_ids, batch.labels, self._config.padded_vocab_size, rows=batch.rows)
        scale = self.loss_scale.value
        host = [Tensor(value, ms.float32) for value in (scale, learning_rate, float(stop))]
        unit = Tensor(1.0 / sum(batch.labels.size for batch in batches), ms.float32)
        ids = [Tensor(batch.network_input()) for batch in batches]
        labels = [Tensor(batch.labels) for batch in batches]
        parts = int(np.prod(self.network.tokens_divide_by))
        shapes: list[tuple[int, ...]] = [(batch.labels.size // parts, self._config.hidden_size) for batch in batches]

        def forward(i: int, x: Tensor | None) -> Tensor | None:
            if self._forward is None:
                return None
            return self._forward(ids[i]) if x is None else self._forward(ids[i], x)

        def backward(i: int, x: Tensor | None, dy: Tensor | None) -> Tensor | None:
            given = [one for one in (x, dy) if one is not None]
            dx = self._backward(ids[i], labels[i], host[0], unit, *given)
            return None if x is None else dx

        same = len(set(shapes)) == 1
        run(
            self._pipe,
            len(batches),
            forward,
            backward,
            shapes=shapes,
            dtype=getattr(ms, self._config.stream_dtype),
            scheduler=self._scheduler if same else "gpipe",  # neighbours swap tensors of equal shape only
        )
        loss, norm, finite, stops = self._apply(*host, unit).asnumpy().tolist()
        self.loss_scale.update(not finite)
        return StepResult(loss, not finite, scale, norm, learning_rate, stops > 0)


class _Forward(nn.Cell):
    """Rows (N, D) for the next stage."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, input_ids: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            return self.network(input_ids)
        return self.network(input_ids, None, rows)


class _Pulled(nn.Cell):
    """The sum of y * dy: its gradient is what dy makes of this stage's weights and input."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, input_ids: Tensor, rows: Tensor, dy: Tensor) -> Tensor:
        y = self.network(input_ids, None, rows)
        return (y.astype(ms.float32) * dy.astype(ms.float32)).sum()


class _PulledFirst(nn.Cell):
    """The same for a stage without input."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, input_ids: Tensor, dy: Tensor) -> Tensor:
        return (self.network(input_ids).astype(ms.float32) * dy.astype(ms.float32)).sum()


class _Backward(nn.Cell):
    """Adds the gradients of one micro batch to the sums; gives the gradient of its rows."""

    def __init__(self, network: nn.Cell, trained: ParameterTuple, sums: Sums, share: Share) -> None:
        super().__init__(auto_prefix=False)
        self.sums, self.share = sums, share
        self.grad = ms.value_and_grad(_Pulled(network), 1, trained)

    def construct(
        self, input_ids: Tensor, labels: Tensor, scale: Tensor, unit: Tensor, rows: Tensor, dy: Tensor
    ) -> Tensor:
        _, weight = self.share(labels, unit)
        _, (dx, grads) = self.grad(input_ids, rows, dy)
        return ops.depend(dx, self.sums.add(grads, ops.zeros((), ms.float32), weight))


class _FirstBackward(nn.Cell):
    """The same at the first stage."""

    def __init__(self, network: nn.Cell, trained: ParameterTuple, sums: Sums, share: Share) -> None:
        super().__init__(auto_prefix=False)
        self.sums, self.share = sums, share
        self.grad = ms.value_and_grad(_PulledFirst(network), None, trained)

    def construct(self, input_ids: Tensor, labels: Tensor, scale: Tensor, unit: Tensor, dy: Tensor) -> Tensor:
        _, weight = self.share(labels, unit)
        _, grads = self.grad(input_ids, dy)
        return self.sums.add(grads, ops.zeros((), ms.float32), weight)


class _Scaled(nn.Cell):
    """(factor * loss, loss) of the last stage."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, input_ids: Tensor, labels: Tensor, rows: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.network(input_ids, labels, rows)
        return loss * factor, loss


class _LastBackward(nn.Cell):
    """Loss and gradients of one micro batch, both passes at once."""

    def __init__(self, network: nn.Cell, trained: ParameterTuple, sums: Sums, share: Share) -> None:
        super().__init__(auto_prefix=False)
        self.sums, self.share = sums, share
        self.grad = ms.value_and_grad(_Scaled(network), 2, trained, has_aux=True)

    def construct(self, input_ids: Tensor, labels: Tensor, scale: Tensor, unit: Tensor, rows: Tensor) -> Tensor:
        share, weight = self.share(labels, unit)
        (_, loss), (dx, grads) = self.grad(input_ids, labels, rows, scale * share)
        return ops.depend(dx, self.sums.add(grads, loss.astype(ms.float32).reshape(()) * share, weight))


def build_step(network: nn.Cell, optimizer: nn.Cell, mesh: Mesh, *, scheduler: str = "1f1b", **settings: Any) -> Any:
    """The step of this rank of the grid: a whole network's, or that of a stage. `settings` are those of both."""
    if mesh.stage.size == 1:
        return TrainStep(network, optimizer, **settings)
    return PipelineStep(network, optimizer, mesh.stage, scheduler=scheduler, **settings)


def pipeline_scheduler(parallel: ParallelSection) -> str:
    """The order of micro batches that `parallel.pipeline_config.pipeline_scheduler` asks for: 1f1b without a word.

    Raises:
        ConfigError: MindSpore has it and this project does not.
    """
    section = parallel.pipeline_config or {}
    if section.get("pipeline_interleave"):
        fix = "Stages hold neighbouring layers and are not interleaved here: set False."
        raise ConfigError("parallel.pipeline_config.pipeline_interleave", True, fix)
    name = section.get("pipeline_scheduler", "1f1b")
    if name not in SCHEDULERS:
        raise ConfigError("parallel.pipeline_config.pipeline_scheduler", name, f"Use {' or '.join(SCHEDULERS)}.")
    return name
