"""One optimizer step: what it computes, skips, accumulates and returns."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindformers_glm.data.batch import Batch
from mindformers_glm.errors import ConfigError
from mindformers_glm.labels import IGNORED
from mindformers_glm.optim import AdamW, build_loss_scale
from mindformers_glm.registry import OPTIMIZERS
from mindformers_glm.train.step import Reduction, TrainStep

DYNAMIC = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 1024, "scale_factor": 2, "scale_window": 3}


def weights(step):
    return {parameter.name: parameter.asnumpy().copy() for parameter in step.network.get_parameters()}


def apart(first, second):
    first, second = weights(first), weights(second)
    return max(np.abs(first[name] - second[name]).max() for name in first)


def joined(batches):
    columns = zip(*batches, strict=True)
    return Batch(*(None if arrays[0] is None else np.concatenate(arrays) for arrays in columns))


class Straight(nn.Cell):
    """Loss of one weight w: w * mean(ids) + what labels inject; its gradient is known exactly."""

    def __init__(self):
        super().__init__()
        self.w = Parameter(Tensor([2.0], ms.float32), name="w")

    def construct(self, input_ids, labels):
        return (self.w * input_ids.astype(ms.float32).mean()).sum() / labels.astype(ms.float32).mean()


def straight_step(**settings):
    network = Straight()
    return TrainStep(network, OPTIMIZERS.get("sgd")(network.trainable_params()), **settings)


def one(value, divisor=1):
    return Batch(np.full((1, 2), value, np.int32), np.full((1, 2), divisor, np.int32), np.array([7]))


def test_loss_falls_and_every_number_is_returned(both_modes, toy):
    step, batch = toy.step(max_grad_norm=1.0), next(toy.dataset().batches(0))
    results = [step([batch], 0.02) for _ in range(12)]
    assert results[-1].loss < 0.8 * results[0].loss
    assert all(not result.overflow and not result.stop and result.grad_norm > 0 for result in results)
    assert results[0].loss_scale == 1.0
    assert results[0].learning_rate == 0.02
    assert float(step.optimizer.learning_rate.asnumpy()) == np.float32(0.02)


def test_a_step_equals_its_formula(both_modes):
    step = straight_step(max_grad_norm=0.5, loss_scale=build_loss_scale(DYNAMIC))
    result = step([one(3)], 0.1)
    assert (result.loss, result.grad_norm, result.loss_scale) == (6.0, 3.0, 1024.0)
    clipped = 3.0 * min(1.0, 0.5 / (3.0 + 1e-6))
    assert step.network.w.asnumpy()[0] == pytest.approx(2.0 - 0.1 * clipped, rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.1, "loss_scale": DYNAMIC}])
def test_accumulated_batches_equal_one_big_batch(both_modes, toy, settings):
    """Although they have different numbers of supervised tokens."""
    if "loss_scale" in settings:
        settings = settings | {"loss_scale": build_loss_scale(settings["loss_scale"])}
    batches = list(toy.dataset().batches(0))[:3]
    assert len({int((batch.labels != IGNORED).sum()) for batch in batches}) > 1
    big, small = toy.step(**settings), toy.step(accumulation=3, **settings)
    for _ in range(3):
        wanted, found = big([joined(batches)], 0.01), small(batches, 0.01)
        assert found.loss == pytest.approx(wanted.loss, rel=2e-6)
        assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=2e-5)
    assert apart(big, small) < 2e-6


def test_micro_batches_can_count_alike_as_in_mindformers(toy):
    batches, alone = list(toy.dataset().batches(0))[:2], toy.step()
    single = [alone([batch], 0.0).loss for batch in batches]  # a rate of 0 changes no weight
    alike = toy.step(accumulation=2, token_weighted=False)(batches, 0.0)
    by_token = toy.step(accumulation=2)(batches, 0.0)
    assert alike.loss == pytest.approx(np.mean(single), rel=1e-6)
    counts = [(batch.labels != IGNORED).sum() for batch in batches]
    assert by_token.loss == pytest.approx(np.average(single, weights=counts), rel=1e-5)


def test_an_overflow_changes_nothing_and_the_scale_follows_a_numpy_model(both_modes, toy):
    """Loss 6 at w = 2; a label of 0 makes the gradient infinite, one scale after another."""
    step = straight_step(loss_scale=build_loss_scale(DYNAMIC))
    scale, good, w = 1024.0, 0, 2.0
    for divisor in [1, 1, 0, 1, 1, 1, 0, 0, 1]:
        result = step([one(3, divisor)], 0.01)
        assert result.loss_scale == scale
        assert result.overflow is (divisor == 0)
        if divisor == 0:
            scale, good = max(scale / 2, 1.0), 0
        else:
            good, w = good + 1, w - 0.01 * 3
            if good == 3:
                scale, good = scale * 2, 0
        assert step.network.w.asnumpy()[0] == pytest.approx(w, rel=1e-6)
        assert step.loss_scale.value == scale


def test_an_overflow_while_accumulating_leaves_no_trace(both_modes):
    step = straight_step(accumulation=2, token_weighted=False, loss_scale=build_loss_scale(DYNAMIC))
    assert step([one(3), one(3, 0)], 0.1).overflow
    assert step.network.w.asnumpy()[0] == 2.0
    result = step([one(3), one(5)], 0.1)
    assert not result.overflow
    assert result.loss == pytest.approx(8.0)
    assert step.network.w.asnumpy()[0] == pytest.approx(2.0 - 0.4, rel=1e-6)


def test_frozen_weights_get_no_gradient_and_no_moments(toy):
    network = toy.network()
    network.table.requires_grad = False
    before = network.table.asnumpy().copy()
    step = TrainStep(network, AdamW(network.trainable_params()))
    batch = next(toy.dataset().batches(0))
    assert step([batch], 0.1).loss > step([batch], 0.1).loss
    np.testing.assert_array_equal(network.table.asnumpy(), before)
    assert [moment.name for moment in step.optimizer.moments1] == ["adam_m.dense.weight", "adam_m.dense.bias"]


def test_parameter_names_are_left_alone(toy):
    step = toy.step(accumulation=2)
    assert [parameter.name for parameter in step.network.get_parameters()] == ["table", "dense.weight", "dense.bias"]


def test_float16_weights_train_with_a_scale(toy):
    step = toy.step(dtype=ms.float16, loss_scale=build_loss_scale(DYNAMIC), max_grad_norm=1.0)
    batch = next(toy.dataset().batches(0))
    losses = [step([batch], 0.02).loss for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]
    assert step.network.table.dtype == ms.float16


class Doubled(nn.Cell):
    """Stands for a sum over two ranks with equal values."""

    def construct(self, value):
        if isinstance(value, tuple):
            doubled = ()
            for item in value:
                doubled = (*doubled, item * 2)
            return doubled
        return value * 2


class NotSummed(nn.Cell):
    def construct(self, grads):
        return grads[0][0] * 0 + 16.0


def test_hooks_of_several_ranks_are_called(both_modes):
    reduction = Reduction(gradients=Doubled(), squared_norm=NotSummed(), everyone=Doubled())
    step = straight_step(reduction=reduction)
    result = step([one(3)], 0.1, stop=True)
    assert result.stop
    assert result.grad_norm == 4.0
    assert step.network.w.asnumpy()[0] == pytest.approx(2.0 - 0.1 * 6, rel=1e-6)
    assert not step([one(3)], 0.1).stop


def test_accumulation_must_be_positive(toy):
    with pytest.raises(ConfigError, match="gradient_accumulation_steps: got 0. Use 1 or more."):
        toy.step(accumulation=0)
