"""What training asks of the network: the same gradients in every mode, dropout, recompute, deterministic start."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import loss_and_gradients, random_network, tiny_config

from mindformers_glm import runtime
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.build import build_model
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.ops import cross_entropy as loss_module
from mindformers_glm.ops.linear import multiplies

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 101, (3, 20)).astype(np.int32)
LABELS = np.where(RNG.random((3, 20)) < 0.4, -100, RNG.integers(0, 101, (3, 20))).astype(np.int32)


def gradients(model, *, training=True, tokens=TOKENS, labels=LABELS):
    return loss_and_gradients(model.set_train(training), tokens, labels)


def assert_equal(ours, theirs, rel=1e-4):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert set(ours[1]) == set(theirs[1])
    for name, gradient in theirs[1].items():
        assert np.linalg.norm(ours[1][name] - gradient) <= rel * np.linalg.norm(gradient) + 1e-7, name


@pytest.fixture(scope="module")
def expected():
    """Loss and gradients in graph mode with the loss that holds all logits."""
    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)
    return gradients(random_network(), training=False)


def test_pynative_equals_graph(expected):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert_equal(gradients(random_network(), training=False), expected)


@pytest.mark.parametrize("chunk", [2**25, 1010])
@pytest.mark.slow_where(lambda mode, chunk: mode == "graph" and chunk == 2**25)
def test_the_chunked_head_loss_equals_the_whole_one(expected, chunk, mode, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", chunk)
    assert_equal(gradients(random_network()), expected)


@pytest.mark.parametrize(
    "form",
    [{"recompute": True}, {"recompute": [1]}, {"select_recompute": True}, {"recompute": 1, "select_recompute": True}],
)
@pytest.mark.slow_where(lambda mode, form: mode == "graph" and form.keys() != {"recompute", "select_recompute"})
def test_recompute_changes_no_gradient(expected, form, mode):
    assert_equal(gradients(random_network(recompute_config=form)), expected)


PET = {"lora_rank": 4, "lora_alpha": 16, "lora_dropout": 0.5, "target_modules": ".*query_key_value*"}


@pytest.mark.parametrize("changes", [{"pet_config": PET}, {"hidden_dropout": 0.5, "attention_dropout": 0.5}])
@pytest.mark.slow_where(lambda mode, changes: mode == "graph" and "pet_config" not in changes)
def test_recompute_draws_the_same_dropout_and_reaches_adapters(changes, mode):
    results = []
    for recompute in (False, True):
        runtime.set_seed(5)
        model = random_network(recompute_config={"recompute": recompute}, num_layers=1, **changes)
        results.append(gradients(model))
    assert_equal(*results)
    assert all(slope.any() for slope in results[1][1].values())


@pytest.mark.slow_where(lambda mode: mode == "graph")
def test_layers_may_be_left_out_of_recompute(expected, mode):
    form = {"recompute": True, "mp_comm_recompute": True, "recompute_slice_activation": True}
    assert_equal(gradients(random_network(recompute_config=form, no_recompute_layers=[0])), expected)


def test_gradients_equal_finite_differences():
    model = random_network()
    _, slopes = gradients(model, training=False)
    rng = np.random.default_rng(1)
    for name, parameter in model.parameters_dict().items():
        start, step = parameter.asnumpy().copy(), 0.02
        direction = rng.normal(size=start.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        losses = []
        for side in (step, -step):
            parameter.set_data(Tensor(start + side * direction))
            losses.append(float(model(Tensor(TOKENS), Tensor(LABELS))))
        parameter.set_data(Tensor(start))
        slope = float((slopes[name] * direction).sum())
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=0.02, abs=2e-4), name


def test_no_supervised_token_is_a_loss_of_zero(mode):
    loss, slopes = gradients(random_network(), labels=np.full_like(LABELS, -100))
    assert loss == 0 and all(not slope.any() for slope in slopes.values())


@pytest.mark.usefixtures("pynative")
def test_the_loss_is_a_scalar_of_float32_over_supervised_tokens():
    model = random_network()
    logits = model(Tensor(TOKENS)).asnumpy().astype(float)
    kept = LABELS >= 0
    shifted = logits - logits.max(-1, keepdims=True)
    rows = (
        np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, np.where(kept, LABELS, 0)[..., None], -1)[..., 0]
    )
    loss = model(Tensor(TOKENS), Tensor(LABELS))
    assert loss.shape == () and loss.dtype == ms.float32
    assert float(loss) == pytest.approx((rows * kept).sum() / (kept.sum() + 1e-5), rel=1e-5)


@pytest.mark.parametrize("key", ["hidden_dropout", "attention_dropout"])
@pytest.mark.slow_where(lambda mode, key: mode == "graph" and key == "hidden_dropout")
def test_dropout_acts_in_training_and_nowhere_else(expected, key, mode):
    model = random_network(**{key: 0.3})
    batch = Tensor(TOKENS), Tensor(LABELS)
    assert float(model(*batch)) == pytest.approx(expected[0], rel=1e-5)
    model.set_train(True)
    losses = {float(model(*batch)) for _ in range(3)}
    assert len(losses) == 3
    if mode == "pynative":
        loss, slopes = gradients(model)
        assert np.isfinite(loss) and all(np.isfinite(slope).all() for slope in slopes.values())


def test_the_same_seed_gives_the_same_weights():
    networks = []
    for seed in (3, 3, 4):
        runtime.set_seed(seed)
        networks.append(ChatGLM2ForConditionalGeneration(tiny_config()).parameters_dict())
    name = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"
    first, again, other = (network[name].asnumpy() for network in networks)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    assert first.std() == pytest.approx(0.02 / 2, rel=0.1)  # 0.02 / sqrt(2 L) with L = 2
    assert networks[0]["transformer.embedding.embedding_table"].asnumpy().std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_half_precision_gradients_are_finite(dtype):
    model = random_network(scale=0.1, param_init_type="float16", compute_dtype=dtype)
    loss, slopes = gradients(model)
    assert np.isfinite(loss) and all(np.isfinite(slope).all() for slope in slopes.values())


def test_too_long_a_sequence_is_refused_before_anything_is_compiled(mode):
    model = random_network(seq_length=8)
    with pytest.raises(ConfigError, match=r"model_config\.seq_length: got 8\. These sequences have 9 tokens"):
        model(Tensor(np.zeros((1, 9), np.int32)))


def test_bfloat16_is_refused_where_the_processor_gains_nothing_by_it(monkeypatch):
    monkeypatch.setenv("GLM_KERNELS", "off")
    with pytest.raises(ConfigError, match="compute_dtype: got 'bfloat16'.*float32"):
        ChatGLM2ForConditionalGeneration(tiny_config(compute_dtype="bfloat16"))


def test_bfloat16_has_nearly_the_gradients_of_float32(expected, mode):
    if not multiplies("bfloat16"):
        pytest.skip("this CPU has no fast products of 16 bits")
    model = random_network(compute_dtype="bfloat16")
    loss, ours = gradients(model)
    assert loss == pytest.approx(expected[0], rel=1e-3)
    assert loss != expected[0]
    for name, gradient in expected[1].items():
        assert np.linalg.norm(ours[name] - gradient) <= 0.03 * np.linalg.norm(gradient) + 1e-7, name


def test_a_model_section_builds_the_network_with_its_adapter():
    values = {**tiny_config().model_dump(include={"num_layers", "hidden_size", "seq_length"}), "ffn_hidden_size": 48}
    section = {
        "model_config": {
            "type": "ChatGLM2Config", **values, "num_attention_heads": 4, "kv_channels": 8, "padded_vocab_size": 101,
            "pet_config": {"pet_type": "lora", "lora_rank": 2, "target_modules": ".*query_key_value*"},
        },
        "arch": {"type": "ChatGLM2ForConditionalGeneration"},
    }  # fmt: skip
    assert len(build_model(section).trainable_params()) == 4
    section["arch"]["type"] = "ChatGLM2ForConditionalGeneratoin"
    with pytest.raises(ConfigError, match=r"model\.arch\.type.*ChatGLM2ForConditionalGeneration"):
        build_model(section)
    with pytest.raises(ConfigError, match=r"model\.model_config: got None"):
        build_model({})
