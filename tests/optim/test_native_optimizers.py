"""MindSpore's own optimizers through the registry."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.optim import decay_groups, load_optimizer, optimizer_arrays, state_parameters
from mindformers_glm.registry import OPTIMIZERS

ON_CPU = ["Adam", "SGD", "Momentum", "Adagrad", "AdaFactor", "RMSProp", "Adadelta", "AdaMax", "ASGD", "FTRL", "Rprop"]
ON_CPU += ["LazyAdam", "ProximalAdagrad", "Lamb"]


def weight(name="w", shape=(3, 2)):
    return Parameter(Tensor(np.full(shape, 0.5, np.float32)), name=name)


def make(spec, params):
    return OPTIMIZERS.build(spec, "optimizer", params=params)


@pytest.fixture(autouse=True)
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("name", ON_CPU)
def test_it_moves_against_the_gradient_at_the_assigned_rate(name):
    parameter = weight()
    optimizer = make({"type": name}, decay_groups([parameter], 0.0))
    optimizer.learning_rate.set_data(Tensor(0.25, ms.float32))
    for _ in range(3):
        optimizer((Tensor(np.full((3, 2), 2.0, np.float32)),))
    assert np.all(parameter.asnumpy() < 0.5)
    assert float(optimizer.learning_rate.asnumpy()) == 0.25


def test_aliases_of_mindformers():
    for alias, name in {"adam": "Adam", "sgd": "SGD", "adagrad": "Adagrad", "adafactor": "AdaFactor"}.items():
        assert OPTIMIZERS.get(alias) is OPTIMIZERS.get(name)


def test_sgd_is_plain():
    parameter = weight()
    optimizer = make({"type": "sgd"}, [parameter])
    optimizer.learning_rate.set_data(Tensor(0.1, ms.float32))
    optimizer((Tensor(np.full((3, 2), 2.0, np.float32)),))
    np.testing.assert_allclose(parameter.asnumpy(), 0.3, rtol=1e-6)


def test_faults_name_the_key():
    for spec, message in (
        ({"type": "SGD", "momentun": 0.9}, "optimizer.momentun: got 0.9. Unknown key. Did you mean 'momentum'?"),
        ({"type": "adam", "beta1": "x"}, "optimizer.beta1: got 'x'."),
        ({"type": "adam", "beta1": 2.0}, "MindSpore refuses it"),
        ({"type": "AdaFactor", "relative_step": True}, "optimizer.relative_step: got True. The rate comes from"),
        ({"type": "sdg"}, "Did you mean 'sgd'?"),
    ):
        with pytest.raises(ConfigError) as caught:
            make(spec, [weight()])
        assert message in str(caught.value)


@pytest.mark.parametrize("name", ["FP32StateAdamWeightDecay", "AdamW", "Adam", "Momentum"])
def test_state_carries_an_optimizer_over_bit_for_bit(name):
    rng = np.random.default_rng(0)
    grads = [(Tensor(rng.standard_normal((3, 2)), ms.float32),) for _ in range(6)]
    straight, stopped = weight(), weight()
    whole, first = make({"type": name}, [straight]), make({"type": name}, [stopped])
    for grad in grads:
        whole(grad)
    for grad in grads[:3]:
        first(grad)
    arrays = {key: value.copy() for key, value in optimizer_arrays(first).items()}
    assert "learning_rate" not in arrays
    assert "w" not in arrays
    resumed_weight = Parameter(Tensor(stopped.asnumpy().copy()), name="w")
    resumed = make({"type": name}, [resumed_weight])
    load_optimizer(resumed, arrays, place="a.ckpt")
    for grad in grads[3:]:
        resumed(grad)
    np.testing.assert_array_equal(resumed_weight.asnumpy(), straight.asnumpy())
    for key, value in optimizer_arrays(whole).items():
        np.testing.assert_array_equal(state_parameters(resumed)[key].asnumpy(), value)


def test_state_that_does_not_fit_changes_nothing():
    optimizer = make({"type": "fp32_adamw"}, [weight("a"), weight("b")])
    good = {name: np.ones((3, 2), np.float32) for name in optimizer_arrays(optimizer)}
    with pytest.raises(CheckpointError, match=r"x.ckpt: no optimizer state for adam_v.b. Resume with"):
        load_optimizer(optimizer, {k: v for k, v in good.items() if k != "adam_v.b"}, place="x.ckpt")
    with pytest.raises(CheckpointError, match=r"adam_m.a has shape \(2,\), the run needs \(3, 2\)"):
        load_optimizer(optimizer, good | {"adam_m.a": np.ones(2)}, place="x.ckpt")
    assert all(not value.any() for value in optimizer_arrays(optimizer).values())


def test_all_of_them_are_mindspores():
    assert all(hasattr(nn, name) for name in ON_CPU)
