"""rsLoRA, DoRA, LoRA+ and the choice of all linear layers: formulas, beginnings, forms on disk."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import loss_and_gradients, random_network, set_weights, tiny_config

from mindformers_glm.adapters.config import LoraConfig, lr_ratios
from mindformers_glm.adapters.lora import add_lora, merge
from mindformers_glm.assembly.network import empty_network
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.optim import AdamW, decay_groups

PET = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 16, "lora_dropout": 0, "target_modules": "all-linear"}
IDS = Tensor([[5, 17, 99, 3]], ms.int32)
LAYER = "transformer.encoder.layers.1.self_attention.query_key_value."


def logits(model) -> np.ndarray:
    return model(IDS).asnumpy()


def test_scaling():
    assert LoraConfig(lora_rank=16, lora_alpha=32).scaling == 2
    assert LoraConfig(lora_rank=16, lora_alpha=32, use_rslora=True).scaling == 8


def test_all_linear_leaves_out_the_output_layer():
    names = [p.name for p in random_network(pet_config=PET).trainable_params()]
    assert len(names) == 2 * 4 * 2 and not any("output_layer" in name for name in names)


@pytest.mark.usefixtures("pynative")
def test_a_new_dora_changes_nothing():
    plain = random_network()
    before = logits(plain)
    adapted = add_lora(plain, {**PET, "use_dora": True})
    np.testing.assert_allclose(logits(adapted), before, atol=1e-5)
    assert len(adapted.trainable_params()) == 3 * 4 * 2


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("rslora", [False, True])
def test_merged_dora_gives_the_adapted_logits(rslora):
    model = random_network(pet_config={**PET, "use_dora": True, "use_rslora": rslora})
    plain = random_network()
    set_weights(plain, merge(model))
    np.testing.assert_allclose(logits(plain), logits(model), atol=2e-4)
    weight, down, up = (
        model.parameters_dict()[LAYER + name].asnumpy().astype(np.float64)
        for name in ("weight", "mindpet_delta_lora_a", "mindpet_delta_lora_b")
    )
    direction = weight + 16 / (2 if rslora else 4) * up @ down
    size = model.parameters_dict()[LAYER + "mindpet_delta_lora_m"].asnumpy()
    wanted = size[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    np.testing.assert_allclose(plain.parameters_dict()[LAYER + "weight"].asnumpy(), wanted, atol=1e-5)


def test_gradients_of_dora_are_equal_in_both_modes():
    found = []
    for mode in (ms.GRAPH_MODE, ms.PYNATIVE_MODE):
        ms.set_context(mode=mode)
        model = random_network(scale=0.1, pet_config={**PET, "target_modules": "query_key_value", "use_dora": True})
        found.append(loss_and_gradients(model, IDS.asnumpy(), np.array([[17, 99, 3, 8]]))[1])
    assert any(name.endswith("_m") for name in found[0])
    for name, gradient in found[0].items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(gradient, found[1][name], rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("pynative")
def test_magnitudes_begin_with_the_weights_that_are_loaded_and_come_back():
    pet = {**PET, "use_dora": True}
    source = {name: value.asnumpy() for name, value in random_network(seed=3).parameters_dict().items()}
    for model in (
        ChatGLM2ForConditionalGeneration(tiny_config(pet_config=pet)),
        empty_network(tiny_config(pet_config=pet)),
    ):
        load_into(model, source, new_adapter=True)
        sizes = model.parameters_dict()[LAYER + "mindpet_delta_lora_m"].asnumpy()
        np.testing.assert_allclose(sizes, np.linalg.norm(source[LAYER + "weight"], axis=1), rtol=1e-6)
    trained = {name: value.asnumpy() + 1 for name, value in model.parameters_dict().items() if "mindpet" in name}
    load_into(model, trained)
    np.testing.assert_array_equal(model.parameters_dict()[LAYER + "mindpet_delta_lora_m"].asnumpy(), sizes + 1)
    with pytest.raises(CheckpointError, match="lora_m"):
        load_into(model, {name: value for name, value in trained.items() if not name.endswith("_m")})


@pytest.mark.usefixtures("pynative")
def test_the_engine_computes_dora():
    model = random_network(pet_config={**PET, "use_dora": True, "use_rslora": True})
    network = KernelNetwork(model)
    found = network.forward(IDS.asnumpy(), np.array([4]), network.new_cache(1), np.array([3]))
    np.testing.assert_allclose(found[0], logits(model)[0, -1], atol=2e-4)


def test_loraplus_lets_b_learn_faster():
    model = random_network(pet_config={**PET, "loraplus_lr_ratio": 16})
    ratio = lr_ratios(model.config.pet_config)
    optimizer = AdamW(decay_groups(model.trainable_params(), 0.0, ratio), learning_rate=1e-3)
    before = {p.name: p.asnumpy().copy() for p in optimizer.parameters}
    optimizer(tuple(Tensor(np.ones(p.shape, np.float32)) for p in optimizer.parameters))
    for parameter in optimizer.parameters:  # the first step of Adam is the learning rate
        moved = before[parameter.name] - parameter.asnumpy()
        np.testing.assert_allclose(moved, 16e-3 if parameter.name.endswith("_b") else 1e-3, rtol=1e-3)


def test_a_ratio_that_an_optimizer_has_not_is_told():
    from mindformers_glm.registry import OPTIMIZERS  # noqa: PLC0415

    model = random_network(pet_config={**PET, "loraplus_lr_ratio": 16})
    groups = decay_groups(model.trainable_params(), 0.0, lr_ratios(model.config.pet_config))
    with pytest.raises(ConfigError, match="loraplus_lr_ratio"):
        OPTIMIZERS.build({"type": "SGD"}, "optimizer", params=groups)
