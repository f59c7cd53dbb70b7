"""LoRA: equal to PEFT on the official network; names, freezing, merging and messages."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import load_file
from tiny_networks import hf_network, loss_and_gradients, random_network, set_weights, shift, tiny_config

from mindformers_glm.adapters.lora import add_lora, merge
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.glm.weights import rename

PET = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 16, "lora_dropout": 0, "target_modules": ".*query_key_value*"}


def from_peft(name: str) -> str:
    """Our name of a PEFT weight, for example base_model.model.<layer>.lora_A.weight."""
    base, _, side = name.removeprefix("base_model.model.").replace(".default", "").partition(".lora_")
    return rename(base + ".weight", "hf", "ours").removesuffix("weight") + f"mindpet_delta_lora_{side[0].lower()}"


@pytest.fixture(params=["hf_glm2_tiny", "hf_glm3_tiny"])
def folder(request, golden):
    return golden / request.param


def peft_network(folder):
    model = hf_network(folder, pet_config={**PET, "lora_rank": 8, "lora_alpha": 32})
    adapter = load_file(folder / "peft_lora/adapter_model.safetensors")
    set_weights(model, {from_peft(name): value.astype(np.float32) for name, value in adapter.items()}, partial=True)
    return model


@pytest.mark.slow_where(lambda folder, mode: mode == "graph" and folder == "hf_glm2_tiny")
def test_logits_loss_and_gradients_equal_peft(folder, mode):
    model, expected = peft_network(folder), np.load(folder / "expected.npz")
    labels = shift(expected["train_labels_unshifted"])
    loss, gradients = loss_and_gradients(model, expected["train_ids"], labels)
    assert loss == pytest.approx(float(expected["lora_loss"]), rel=1e-5)
    official = {from_peft(k.removeprefix("lora_grad:")): expected[k] for k in expected if k.startswith("lora_grad:")}
    assert set(gradients) == set(official)
    for name, gradient in official.items():
        assert np.linalg.norm(gradients[name] - gradient) < 1e-3 * np.linalg.norm(gradient), name


@pytest.mark.usefixtures("pynative")
def test_merged_weights_give_the_adapted_logits(folder):
    model = peft_network(folder)
    input_ids = Tensor(np.load(folder / "expected.npz")["train_ids"], ms.int32)
    adapted = model(input_ids).asnumpy()
    plain = hf_network(folder)
    set_weights(plain, merge(model))
    np.testing.assert_allclose(plain(input_ids).asnumpy(), adapted, atol=1e-5)


@pytest.mark.usefixtures("pynative")
def test_last_logits_equal_peft(folder):
    """The golden's batch is padded and its last position is padding, which the official code lets see everything."""
    model, expected = peft_network(folder), np.load(folder / "expected.npz")
    kept = expected["train_attention_mask"].astype(bool)
    seen = np.tril(np.ones(kept.shape[1:] * 2, bool)) & kept[:, None] | ~kept[:, :, None]
    groups = model.config.num_attention_heads // model.config.num_kv_heads
    mask = np.where(np.tile(seen, (1, groups, 1)), 0, -1e4).astype(np.float32)[:, None]
    logits = Masked(model)(Tensor(expected["train_ids"]), Tensor(mask)).asnumpy()
    last = logits.reshape(*kept.shape, -1)[0, -1]
    np.testing.assert_allclose(last, expected["lora_logits_last"], atol=1e-4, rtol=0)


class Masked(nn.Cell):
    """The network under a mask of the test's own."""

    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.network = model.transformer

    def construct(self, input_ids, mask):
        cos, sin, _ = self.network.place(input_ids)
        rows = self.network.encoder(self.network.embedding(input_ids), cos, sin, mask, input_ids.shape[0])
        return self.network.output_layer(rows)


def test_names_and_shapes_are_those_of_mindformers():
    model = random_network(pet_config=PET)
    parameters = model.parameters_dict()
    layer = "transformer.encoder.layers.1.self_attention.query_key_value."
    assert parameters[layer + "mindpet_delta_lora_a"].shape == (4, 32)
    assert parameters[layer + "mindpet_delta_lora_b"].shape == (64, 4)
    assert len(model.trainable_params()) == 4 and layer + "bias" in parameters
    assert all(name == parameter.name for name, parameter in model.parameters_and_names())


@pytest.mark.usefixtures("pynative")
def test_a_new_adapter_changes_nothing_and_starts_as_mindformers_does():
    plain = random_network()
    input_ids = Tensor([[5, 17, 99]], ms.int32)
    before = plain(input_ids).asnumpy()
    adapted = add_lora(plain, {**PET, "lora_dropout": 0.5})
    np.testing.assert_allclose(adapted(input_ids).asnumpy(), before, atol=1e-6)
    for parameter in adapted.trainable_params():
        value = parameter.asnumpy()
        if parameter.name.endswith("_b"):
            assert not value.any()
        else:
            assert np.abs(value).max() <= 32**-0.5
            assert value.std() == pytest.approx((32 * 3) ** -0.5, rel=0.2)


def test_dropout_acts_in_training_only():
    model = random_network(pet_config={**PET, "lora_dropout": 0.5})
    input_ids = Tensor([[5, 17, 99]], ms.int32)
    still = [model(input_ids).asnumpy() for _ in range(2)]
    np.testing.assert_array_equal(*still)
    model.set_train(True)
    moved = [model(input_ids).asnumpy() for _ in range(2)]
    assert np.abs(moved[0] - moved[1]).max() > 1e-3


@pytest.mark.parametrize(
    "changes, count",
    [
        ({"target_modules": ".*dense*|.*linear*"}, 2 * 3),
        ({"target_modules": ["query_key_value", "dense"]}, 2 * 4),
        ({"exclude_layers": ["transformer.encoder.layers.0.*"]}, 1),
        ({"target_modules": ".*", "exclude_layers": "output_layer"}, 2 * 4),
    ],
)
def test_layers_are_chosen_by_their_own_name(changes, count):
    model = random_network(pet_config={**PET, **changes})
    assert len(model.trainable_params()) == 2 * count


def test_more_or_less_may_be_frozen():
    model = random_network(pet_config={**PET, "freeze_exclude": ["*layernorm*"], "freeze_include": ["*.layers.0.*_a"]})
    names = [parameter.name for parameter in model.trainable_params()]
    assert sum("layernorm" in name for name in names) == 5
    assert sum("mindpet_delta_lora_a" in name for name in names) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"target_modules": "q_proj"}, r"pet_config\.target_modules: got 'q_proj'.*dense, .*query_key_value"),
        ({"target_modules": "("}, r"pet_config\.target_modules.*not a regular expression"),
        ({"lora_rnk": 8}, r"pet_config\.lora_rnk: got 8\. Unknown key\. Did you mean 'lora_rank'"),
        ({"lora_rank": 0}, r"pet_config\.lora_rank: got 0"),
        ({"lora_dropout": "much"}, r"pet_config\.lora_dropout"),
        ({"pet_type": "lokr"}, r"pet_config\.pet_type: got 'lokr'. Use one of lora, ptuning2"),
    ],
)
def test_wrong_settings_name_their_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        add_lora(random_network(), {**PET, **changes})


def test_a_second_adapter_is_refused():
    model = random_network(pet_config=PET)
    with pytest.raises(ConfigError, match="adapters already"):
        add_lora(model, PET)


@pytest.mark.usefixtures("pynative")
def test_half_precision_adapters_keep_their_types():
    config = tiny_config(pet_config={**PET, "param_init_type": "float16", "compute_dtype": "float16"})
    model = ChatGLM2ForConditionalGeneration(config)
    assert {parameter.dtype for parameter in model.trainable_params()} == {ms.float16}
    assert np.isfinite(model(Tensor([[5, 17]], ms.int32)).asnumpy()).all()
