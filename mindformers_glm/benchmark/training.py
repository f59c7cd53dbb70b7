"""A training step of the trainer itself: TrainStep with AdamW and clipping, over random tokens."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from mindformers_glm.benchmark.machine import Machine
from mindformers_glm.benchmark.settings import Settings
from mindformers_glm.benchmark.timing import repeated, seconds, spread
from mindformers_glm.benchmark.work import parameter_count, train_flop, weight_bytes
from mindformers_glm.data.batch import Batch
from mindformers_glm.models.build import build_model
from mindformers_glm.optim import AdamW, decay_groups
from mindformers_glm.train.step import TrainStep

_RATE, _DECAY, _MAX_NORM = 1e-4, 0.01, 1.0


class Training:
    """A network with random weights, its optimizer, and one batch."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = build_model(settings.config())
        trained = self.model.trainable_params()
        self.trained_numbers = sum(math.prod(parameter.shape) for parameter in trained)
        optimizer = AdamW(decay_groups(trained, _DECAY), learning_rate=_RATE)
        self.step = TrainStep(self.model, optimizer, max_grad_norm=_MAX_NORM)
        random = np.random.default_rng(0)
        ids = random.integers(0, settings.shape.vocab, (settings.batch, settings.length + 1)).astype(np.int32)
        self.batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), np.arange(1, settings.batch + 1))

    def measure(self) -> dict[str, Any]:
        """The median step after one that compiles and one that warms up."""
        losses: list[float] = []

        def step() -> None:
            losses.append(self.step([self.batch], _RATE).loss)

        first = seconds(step)
        step()
        times = repeated(step, self.settings.steps)
        usual = statistics.median(times)
        tokens = self.settings.batch * self.settings.length
        return {
            "tokens_per_s": tokens / usual,
            "ms_per_token": usual * 1e3 / tokens,
            **spread(times),
            "compile_s": max(0.0, first - usual),
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "parameters": parameter_count(self.settings),
            "trained_parameters": self.trained_numbers,
            "weight_bytes": weight_bytes(self.model),
            "flop": train_flop(self.settings, trained_numbers=self.trained_numbers),
        }

    def shares(self, figures: dict[str, Any], machine: Machine) -> dict[str, float]:
        """Part of the machine's float32 matrix speed."""
        return {"matrix_share": figures["flop"] / (figures["ms_median"] / 1e3) / machine.matrix_flop_per_s}
