"""A language model of a few hundred weights and a dataset of random tokens, so that a test trains in a second."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from toy_networks import LENGTH, VOCABULARY, SquareRoot, Toy

from mindformers_glm.data.batch import Batch
from mindformers_glm.data.order import Order
from mindformers_glm.labels import IGNORED
from mindformers_glm.optim import FP32StateAdamWeightDecay, decay_groups
from mindformers_glm.train.plan import make_plan
from mindformers_glm.train.state import RunState, data_identity
from mindformers_glm.train.step import StepResult, TrainStep


class Tokens:
    """Random rows in an order fixed by (seed, epoch); row k is line k + 1."""

    def __init__(self, rows=24, batch_size=4, seed=3):
        rng = np.random.default_rng(seed)
        self.ids = rng.integers(0, VOCABULARY, (rows, LENGTH)).astype(np.int32)
        self.labels = (self.ids * 5 + 3).astype(np.int32) % VOCABULARY
        self.labels[rng.random(self.labels.shape) < 0.3] = IGNORED
        self.order = Order(num_rows=rows, batch_size=batch_size, seed=seed)
        self.batch_size = batch_size

    def __len__(self):
        return len(self.order)

    def batches(self, epoch, start=0):
        for index in range(start, len(self)):
            rows = self.order.batch(epoch, index)
            yield Batch(self.ids[rows], self.labels[rows], rows + 1)


def make_step(seed=0, optimizer=FP32StateAdamWeightDecay, dtype=ms.float32, network=None, **settings):
    network = network or Toy(seed, dtype)
    return TrainStep(network, optimizer(decay_groups(network.trainable_params(), 0.1), eps=1e-8), **settings)


IDLE: list[TrainStep] = []  # plain steps that tests have used: compiled, and as good as new once their numbers are


def renewed(step: TrainStep, fresh: TrainStep) -> TrainStep:
    """A compiled step with the weights, states and loss scale of a fresh one, which need not be compiled then.

    They are assigned: after `set_data` the second launch of a compiled step reads what the first had written before.
    """
    for used, new in ((step.network, fresh.network), (step.optimizer, fresh.optimizer)):
        for parameter, other in zip(used.get_parameters(), new.get_parameters(), strict=True):
            ms.ops.assign(parameter, ms.Tensor(other.asnumpy().copy(), other.dtype))
    step.network.set_train(True)
    step.loss_scale = fresh.loss_scale
    return step


class Nudge:
    """A step that adds to the weights what a run of any length makes the same, and compiles nothing."""

    accumulation = 1

    def __init__(self, step):
        self.network, self.optimizer, self.loss_scale = step.network, step.optimizer, step.loss_scale

    def __call__(self, batches, rate, *, stop=False):
        table = self.network.table
        table.set_data(ms.Tensor(table.asnumpy() * np.float32(0.9) + np.float32(rate)))
        return StepResult(1.0, False, 1.0, 1.0, rate, stop)


@pytest.fixture
def toy():
    """Makes networks, datasets, steps and runs. A run without a step of its own is lent one, which is compiled once."""
    lent: list[TrainStep] = []

    def lend(seed):
        lent.append(renewed(IDLE.pop(), make_step(seed)) if IDLE else make_step(seed))
        return lent[-1]

    class Make:
        network, square_root, dataset = Toy, SquareRoot, Tokens
        step, renewed = staticmethod(make_step), staticmethod(renewed)

        @staticmethod
        def nudge():
            """A step for tests of what is around it."""
            return Nudge(make_step())

        @staticmethod
        def run(folder, dataset=None, *, step=None, seed=0, plan=None, **settings):
            data = dataset or Tokens()
            step = step or lend(seed)
            plan = {"epochs": 2, "accumulation": step.accumulation} | (plan or {})
            plan = make_plan(batches=len(data), **plan)
            size = data.batch_size * step.accumulation
            return RunState(
                step=step, plan=plan, batch_size=size, data=data_identity(data), output_dir=folder, **settings
            )

    yield Make
    IDLE.extend(lent)


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def both_modes(request, graph_mode):
    ms.set_context(mode=request.param)
