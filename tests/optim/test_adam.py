"""Adam variants against MindFormers r0.8 (golden/mindformers_r08/optim/fp32_state_adam.*) and float64 formulas."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindformers_glm.errors import ConfigError
from mindformers_glm.optim import AdamW, FP32StateAdamWeightDecay, build_schedule, decay_groups
from mindformers_glm.registry import OPTIMIZERS

CASES = (
    "plain_defaults",
    "plain_wd",
    "plain_wd_ascend_branch",
    "trainer_groups_const",
    "trainer_groups_polynomial",
    "trainer_groups_polynomial_ascend_branch",
    "alias_fp32_adamw",
    "fp16_params_fused_cpu",
    "fp16_params_ascend_branch",
    "fp16_params_fp32_grads_ascend_branch",
)
POLYNOMIAL = {"type": "polynomial", "learning_rate": 0.05, "lr_end": 1e-3, "warmup_steps": 2, "total_steps": 5}
SETTINGS = ("beta1", "beta2", "eps", "weight_decay")


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.GRAPH_MODE)


def step(optimizer, grads, rate):
    optimizer.learning_rate.set_data(Tensor(rate, ms.float32))
    # mutable: a tuple of tensors would be a constant of the graph, which is compiled anew for each
    optimizer(ms.mutable(tuple(Tensor(grads[p.name]) for p in optimizer.parameters)))


@pytest.mark.parametrize("name", CASES)
def test_every_case_of_mindformers(golden, name):
    folder = golden / "mindformers_r08/optim"
    case = json.loads((folder / "fp32_state_adam.json").read_text())["cases"][name]
    arrays = np.load(folder / "fp32_state_adam.npz")
    init = {key.removeprefix("init/"): arrays[key] for key in arrays.files if key.startswith("init/")}
    types = {n: np.float32 if "fp32_grads" in name else arrays[f"{name}/0/param/{n}"].dtype for n in init}
    params = [Parameter(Tensor(v.astype(arrays[f"{name}/0/param/{n}"].dtype)), name=n) for n, v in init.items()]
    info = case["info"] or {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    settings = {key: value for key, value in info.get("optimizer", info).items() if key in SETTINGS}
    if "groups" in info:
        groups = decay_groups(params, settings["weight_decay"])
        found = [([p.name for p in group["params"]], group["weight_decay"]) for group in groups]
        assert found == [(group["params"], group["weight_decay"]) for group in info["groups"]]
        params = groups
    optimizer = OPTIMIZERS.get("fp32_adamw")(params, **settings)
    rate = info["learning_rate"]
    schedule = build_schedule(POLYNOMIAL if isinstance(rate, str) else rate)
    for k in range(case["steps"]):
        step(optimizer, {n: arrays[f"grad/{k}/{n}"].astype(types[n]) for n in init}, schedule(k))
        for p, m, v in zip(optimizer.parameters, optimizer.moments1, optimizer.moments2, strict=True):
            assert (m.name, v.name) == (f"adam_m.{p.name}", f"adam_v.{p.name}")
            assert m.dtype == v.dtype == ms.float32
            for kind, found in (("param", p), ("m", m), ("v", v)):
                wanted = arrays[f"{name}/{k}/{kind}/{p.name}"]
                np.testing.assert_allclose(found.asnumpy(), wanted, 3e-7, 3e-7, err_msg=f"{k} {kind} {p.name}")


def adamw_in_float64(values, grads, *, rate, beta1, beta2, eps, decay, corrected):
    """Values after each step, by the published formula."""
    out, m, v = [], np.zeros_like(values), np.zeros_like(values)
    for t, grad in enumerate(grads, 1):
        m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if corrected else (1, 1)
        values = values - rate * ((m / c1) / (np.sqrt(v / c2) + eps) + decay * values)
        out.append(values)
    return out


@pytest.mark.parametrize("kind", [AdamW, FP32StateAdamWeightDecay])
def test_formula_in_both_modes(mode, kind):
    rng = np.random.default_rng(3)
    values, grads = rng.standard_normal((5, 7)), rng.standard_normal((20, 5, 7)) * 1e-3
    settings = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-4}
    parameter = Parameter(Tensor(values, ms.float32), name="w")
    optimizer = kind([parameter], weight_decay=0.1, **settings)
    wanted = adamw_in_float64(values, grads, rate=0.01, decay=0.1, corrected=kind is AdamW, **settings)
    for grad, value in zip(grads, wanted, strict=True):
        step(optimizer, {"w": grad.astype(np.float32)}, 0.01)
        np.testing.assert_allclose(parameter.asnumpy(), value, rtol=3e-6, atol=5e-6)


def test_names_of_mindformers_mean_its_formula_and_the_published_one_has_its_own():
    for name in ("fp32_adamw", "AdamWeightDecay", "adamw", "FusedAdamWeightDecay", "fused_adamw"):
        assert OPTIMIZERS.get(name) is FP32StateAdamWeightDecay
    assert OPTIMIZERS.get("AdamW") is AdamW


def test_decay_does_not_depend_on_which_parameter_comes_first():
    """In MindFormers a leading one-dimensional parameter switched the decay off for all (compat 12.18)."""
    weights = [
        Parameter(Tensor(np.ones(shape, np.float32)), name=name)
        for name, shape in (("norm.weight", (4,)), ("dense.weight", (3, 4)), ("dense.bias", (3,)), ("odd.bias", (3, 1)))
    ]
    groups = decay_groups(weights, 0.1)
    found = {p.name: group["weight_decay"] for group in groups for p in group["params"]}
    assert found == {"norm.weight": 0.0, "dense.weight": 0.1, "dense.bias": 0.0, "odd.bias": 0.0}
    assert decay_groups(weights[:1], 0.1) == [{"params": weights[:1], "weight_decay": 0.0}]


def test_bfloat16_parameters_keep_float32_moments():
    parameter = Parameter(Tensor(np.ones((2, 2), np.float32), ms.bfloat16), name="w")
    optimizer = FP32StateAdamWeightDecay([parameter])
    assert optimizer.moments1[0].dtype == ms.float32
    assert optimizer.is_float32 == (False,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta1": 1.0}, "optimizer.beta1: got 1.0. Use a number between 0 and 1."),
        ({"eps": 0}, "optimizer.eps: got 0. Use a number above 0."),
        ({"weight_decay": -1}, "optimizer.weight_decay: got -1. Use 0 or more."),
        ({"params": []}, "optimizer.params: got []. No parameter is trainable."),
        ({"params": [{"params": [], "lr": 1}]}, "optimizer.params.lr: got 1. A group has"),
    ],
)
def test_faults_name_the_key(change, message):
    weight = Parameter(Tensor(np.ones((2, 2), np.float32)), name="w")
    with pytest.raises(ConfigError) as caught:
        FP32StateAdamWeightDecay(**{"params": [weight], **change})
    assert message in str(caught.value)


def test_text_numbers_from_yaml_work():
    weight = Parameter(Tensor(np.ones((2, 2), np.float32)), name="w")
    spec = {"type": "FP32StateAdamWeightDecay", "beta1": 0.9, "eps": "1e-8", "weight_decay": "0.1"}
    optimizer = OPTIMIZERS.build(spec, "optimizer", params=[weight])
    assert (optimizer.eps, optimizer.decays) == (1e-8, (0.1,))
