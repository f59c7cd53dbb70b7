"""LoRA on integer weights: exact products both ways, training, saving, and what is refused."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from tiny_networks import TINY, logits_of, loss_and_gradients, random_network

from mindformers_glm import runtime
from mindformers_glm.adapters.lora import QuantizedLoraLinear, merge
from mindformers_glm.assembly.network import empty_network
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.quantized import quantized_layers
from mindformers_glm.ops.cross_entropy import CrossEntropy, IntegerHeadCrossEntropy
from mindformers_glm.ops.linear import QuantizedMatmul
from mindformers_glm.ops.quantized import dequantize, quantize

SHAPE = {
    **TINY,
    "num_layers": 1,
    "hidden_size": 64,
    "kv_channels": 16,
    "ffn_hidden_size": 96,
    "quantization_group_size": 32,
}
PET = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 16, "lora_dropout": 0, "target_modules": "all-linear"}
IDS = np.array([[5, 17, 99, 3], [1, 2, 3, 4]], np.int32)
LABELS = np.array([[17, 99, 3, -100], [2, 3, 4, 7]], np.int32)


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)


def pair(bits: int, **changes) -> tuple[ChatGLM2ForConditionalGeneration, ChatGLM2ForConditionalGeneration]:
    """A network with integers and LoRA, and the float network of the weights that these stand for."""
    shape = {**SHAPE, **changes}
    source = random_network(scale=0.1, **{**shape, "pet_config": PET})
    weights = {name: value.asnumpy() for name, value in source.parameters_dict().items()}
    model = empty_network(ChatGLM2Config(**shape, quantization_bit=bits, pet_config=PET))
    load_into(model, weights)
    layers = quantized_layers(model)
    for name, layer in layers.items():
        found = type(quantize(np.zeros((1, 32), np.float32), bits=8, group_size=32))
        whole = found(layer.weight.asnumpy(), layer.weight_scale.asnumpy())
        weights[name] = dequantize(whole, bits=layer.bits, columns=layer.in_channels)
    plain = empty_network(ChatGLM2Config(**shape, pet_config=PET))
    load_into(plain, weights)
    return model, plain


class Against(nn.Cell):
    """The product with a weight, and its sum weighted by dy."""

    def __init__(self, product, whole, dy):
        super().__init__(auto_prefix=False)
        self.matmul, self.weight, self.scale = product, Tensor(whole.weight), Tensor(whole.scale)
        self.dy = Tensor(dy)

    def construct(self, x):
        y = self.matmul(x, self.weight, self.scale)
        return (y * self.dy).sum(), y


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize(("bits", "columns", "group"), [(8, 48, 16), (4, 96, 32), (4, 416, 32), (4, 256, 128)])
def test_products_are_those_of_the_floats_that_integers_stand_for(rows, bits, columns, group):
    if (rows, columns) != (5, 96):  # one of them in a graph, as training has it
        ms.set_context(mode=ms.PYNATIVE_MODE)
    random = np.random.default_rng(0)
    weight = random.standard_normal((70, columns)).astype(np.float32)
    whole = quantize(weight, bits=bits, group_size=group)
    exact = dequantize(whole, bits=bits, columns=columns)
    x, dy = (random.standard_normal((rows, n)).astype(np.float32) for n in (columns, 70))
    for kernels in (True, False):
        product = QuantizedMatmul(bits=bits, columns=columns).set_train(True)
        assert product.kernel_is_on
        product.kernel_is_on = kernels
        step = ms.value_and_grad(Against(product, whole, dy), 0, has_aux=True)
        (_, y), dx = step(Tensor(x))
        np.testing.assert_allclose(y.asnumpy(), x @ exact.T, rtol=1e-5, atol=2e-4)
        np.testing.assert_allclose(dx.asnumpy(), dy @ exact, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_loss_and_gradients_are_those_of_the_dequantised_network(bits):
    model, plain = pair(bits)
    loss, gradients = loss_and_gradients(model.set_train(True), IDS, LABELS)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    wanted, official = loss_and_gradients(plain.set_train(True), IDS, LABELS)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert set(gradients) == set(official) and len(gradients) == 8
    for name, gradient in official.items():
        assert np.linalg.norm(gradients[name] - gradient) <= 1e-4 * np.linalg.norm(gradient), name


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("bits", "rows"), [(8, 1), (4, 7)])
def test_the_loss_of_an_integer_head_is_that_of_its_floats(bits, rows, smoothing):
    random = np.random.default_rng(0)
    weight = random.standard_normal((70, 96)).astype(np.float32)
    whole = quantize(weight, bits=bits, group_size=32)
    exact = Tensor(dequantize(whole, bits=bits, columns=96))
    hidden = Tensor(random.standard_normal((rows, 96)).astype(np.float32))
    labels = Tensor(np.where(np.arange(rows) == 3, -100, random.integers(0, 70, rows)).astype(np.int32))
    given, scale = Tensor(whole.weight), Tensor(whole.scale)
    own = IntegerHeadCrossEntropy(bits=bits, smoothing=smoothing)
    assert own.kernel_is_on
    formula = CrossEntropy(smoothing=smoothing).set_train(True)
    loss, slope = ms.value_and_grad(own, 0)(hidden, given, scale, labels)

    def official_loss(x):
        return formula(ops.matmul(x, exact.T), labels)

    wanted, official = ms.value_and_grad(official_loss, 0)(hidden)
    np.testing.assert_allclose(loss.asnumpy(), wanted.asnumpy(), rtol=1e-5)
    np.testing.assert_allclose(slope.asnumpy(), official.asnumpy(), rtol=1e-4, atol=1e-5)


def test_the_engine_computes_lora_on_integers():
    model, plain = pair(4)
    network = KernelNetwork(model)
    found = network.forward(IDS[:1], np.array([4]), network.new_cache(1), np.array([3]))[0]
    wanted = logits_of(plain, IDS[:1])[0, -1]
    assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)


def test_integers_are_frozen_and_not_merged():
    model, _ = pair(8)
    assert all("mindpet_delta_lora" in parameter.name for parameter in model.trainable_params())
    pet = {**PET, "freeze_exclude": ["*"]}
    other = ChatGLM2ForConditionalGeneration(ChatGLM2Config(**SHAPE, quantization_bit=8, pet_config=pet))
    trained = [parameter.name for parameter in other.trainable_params()]
    assert not any(name.endswith(("dense.weight", "weight_scale")) for name in trained)
    assert any(isinstance(cell, QuantizedLoraLinear) for _, cell in model.cells_and_names())
    with pytest.raises(ConfigError, match="merge-lora --base FLOAT"):
        merge(model)


def test_dora_on_integers_is_told():
    with pytest.raises(ConfigErrors, match=r"pet_config\.use_dora: got True\. DoRA needs float weights"):
        ChatGLM2Config(**SHAPE, quantization_bit=8, pet_config={**PET, "use_dora": True})
