"""Moments in bfloat16: half the memory, the curve of float32 closely, whole checkpoints, and what is refused."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindformers_glm import runtime
from mindformers_glm.errors import ConfigError
from mindformers_glm.optim import AdamW, FP32StateAdamWeightDecay, load_optimizer, optimizer_arrays


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)


def run(kind, dtype: str, steps: int, beta2: float = 0.999) -> tuple[np.ndarray, list[float], object]:
    """A quadratic bowl with noisy gradients: the weights at the end, the distances on the way, the optimizer."""
    random = np.random.default_rng(0)
    target = random.standard_normal((40, 25)).astype(np.float32)
    parameter = Parameter(Tensor(np.zeros_like(target)), name="w")
    optimizer = kind([parameter], learning_rate=0.02, beta2=beta2, state_dtype=dtype)
    distances = []
    for _ in range(steps):
        now = parameter.asnumpy()
        distances.append(float(np.square(now - target).mean()))
        gradient = now - target + 0.3 * random.standard_normal(target.shape).astype(np.float32)
        optimizer(ms.mutable((Tensor(gradient),)))
    return parameter.asnumpy().copy(), distances, optimizer


@pytest.mark.parametrize("kind", [AdamW, FP32StateAdamWeightDecay])
def test_the_curve_is_that_of_float32(kind):
    _, wide, _ = run(kind, "float32", 120)
    _, half, optimizer = run(kind, "bfloat16", 120)
    for begin in range(0, 120, 40):
        a, b = np.mean(wide[begin : begin + 40]), np.mean(half[begin : begin + 40])
        assert b == pytest.approx(a, rel=0.05, abs=0.002)
    assert {parameter.dtype for parameter in optimizer.moments1} == {ms.bfloat16}


def test_a_second_moment_moves_although_each_step_is_below_its_precision():
    parameter = Parameter(Tensor(np.zeros(1003, np.float32)), name="w")
    optimizer = AdamW([parameter], learning_rate=1e-6, beta2=0.9995, state_dtype="bfloat16")
    random = np.random.default_rng(0)
    squares = 0.0
    for _ in range(150):
        gradient = random.standard_normal(1003).astype(np.float32)
        squares = squares * 0.9995 + 0.0005 * np.square(gradient).mean()
        optimizer(ms.mutable((Tensor(gradient),)))
    found = optimizer_arrays(optimizer)["adam_v.w"].astype(np.float32).mean()
    assert found == pytest.approx(squares, rel=0.05)


def test_the_states_come_back_exactly():
    _, _, optimizer = run(AdamW, "bfloat16", 5)
    saved = {name: np.array(value) for name, value in optimizer_arrays(optimizer).items()}
    other = run(AdamW, "bfloat16", 1)[2]
    load_optimizer(other, saved, place="x")
    for name, value in optimizer_arrays(other).items():
        assert value.tobytes() == saved[name].tobytes()


def test_what_has_no_kernel_is_told(monkeypatch):
    half = Parameter(Tensor(np.zeros(3, np.float16)), name="w")
    for parameters, dtype in (([half], "bfloat16"), ([half], "float8")):
        with pytest.raises(ConfigError, match=r"optimizer\.state_dtype"):
            AdamW(parameters, state_dtype=dtype)
