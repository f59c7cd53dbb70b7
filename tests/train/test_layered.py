"""Layers that are computed again: the same step, bit for bit, with less to keep."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_networks import random_network

from mindformers_glm import runtime
from mindformers_glm.data.batch import Batch
from mindformers_glm.models.glm.training import freeze, set_training
from mindformers_glm.optim import AdamW, decay_groups
from mindformers_glm.train.step import TrainStep

LORA = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0, "target_modules": "all-linear"}
INTEGERS = {"hidden_size": 64, "kv_channels": 16, "ffn_hidden_size": 96, "quantization_group_size": 32}
FORMS = {
    "whole": {},
    "two groups": {"multi_query_attention": True, "multi_query_group_num": 1},
    "tied": {"tie_word_embeddings": True},
    "sandwich": {"post_self_attn_layernorm": True, "post_mlp_layernorm": True, "add_qkv_bias": False},
    "biases": {"add_bias_linear": True, "rmsnorm": False},
    "LoRA": {"pet_config": LORA},
    "QLoRA": {"pet_config": LORA, "quantization_bit": 4, **INTEGERS},
}


@pytest.fixture(autouse=True)
def _graph_mode(monkeypatch):
    """Kernels have two threads, whatever share of the machine a worker has (tests/conftest.py)."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)


def batches(count: int, *, planes: int = 1) -> list[Batch]:
    """Micro batches of 2 x 8 tokens; with two or three planes, two samples are packed in each row."""
    random = np.random.default_rng(5)
    made = []
    for _ in range(count):
        ids, labels = random.integers(1, 90, (2, 2, 8)).astype(np.int32)
        labels[0, :3] = -100
        first = np.array([[0] * 5 + [5] * 3] * 2, np.int32)
        positions = np.array([[*range(5), *range(3)]] * 2, np.int32)
        made.append(Batch(ids, labels, np.arange(2), first if planes > 1 else None, positions if planes > 2 else None))
    return made


def three_steps(network, *, accumulation: int = 1, planes: int = 1):
    """Losses, norms and weights after three steps."""
    step = TrainStep(
        network,
        AdamW(decay_groups(network.trainable_params(), 0.1), learning_rate=1e-2),
        max_grad_norm=1.0,
        accumulation=accumulation,
    )
    results = [step(batches(accumulation, planes=planes), 1e-2) for _ in range(3)]
    return [(one.loss, one.grad_norm) for one in results], {p.name: p.asnumpy() for p in network.get_parameters()}


def assert_same(changes: dict, prepare=lambda network: None, **settings) -> None:
    found = []
    for again in (False, True):
        network = random_network(recompute_config={"recompute": again}, **changes)
        prepare(network)
        assert network.computes_layers_again is again
        found.append(three_steps(network, **settings))
    (kept, weights), (again, others) = found
    assert kept == again
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(others[name], value, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow_where(lambda form: form != "QLoRA")
def test_a_step_is_the_same(form):
    assert_same(FORMS[form])


@pytest.mark.slow
def test_so_it_is_with_formulas(monkeypatch):
    monkeypatch.setenv("GLM_KERNELS", "off")
    assert_same({"pet_config": LORA})


@pytest.mark.parametrize("planes", [2, 3])
@pytest.mark.slow_where(lambda planes: planes == 2)
def test_packed_rows_keep_their_borders(planes):
    """With a tied table, whose gradient is the sum of both uses."""
    assert_same(FORMS["tied"], planes=planes)


@pytest.mark.slow
def test_micro_batches_add_up():
    assert_same({}, accumulation=2)


@pytest.mark.slow
def test_frozen_layers_have_no_gradients():
    assert_same({}, lambda network: freeze(network, first_layers=1))


def test_smoothed_labels_and_a_whole_network_that_is_frozen_but_its_head():
    def prepare(network):
        freeze(network, include=["*"], exclude=["transformer.output_layer.weight"])
        set_training(network, smoothing=0.1)

    assert_same({}, prepare)


@pytest.mark.slow
def test_noise_is_drawn_once():
    assert_same({}, lambda network: set_training(network, noise_alpha=5.0, seed=3))


@pytest.mark.parametrize(
    "changes", [{"hidden_dropout": 0.1}, {"pre_seq_len": 4}, {"pet_config": {**LORA, "lora_dropout": 0.1}}]
)
def test_what_would_draw_again_keeps_everything(changes):
    assert not random_network(recompute_config={"recompute": True}, **changes).computes_layers_again
