"""The network against MindFormers r0.8 itself (golden/mindformers_r08): its .ckpt files, logits, loss, gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import loss_and_gradients, set_weights, tiny_config

from mindformers_glm.adapters.lora import LoraLinear
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration

SHAPE = {"padded_vocab_size": 65024, "seq_length": 32}


def network(folder, kind, **changes):
    dtypes = {"param_init_type": f"float{kind}", "compute_dtype": f"float{kind}", **changes}
    model = ChatGLM2ForConditionalGeneration(tiny_config(**SHAPE, **dtypes))
    checkpoint = ms.load_checkpoint(str(folder / f"model_fp{kind}/tiny_fp{kind}.ckpt"))
    set_weights(model, {name: value.asnumpy() for name, value in checkpoint.items()}, partial="pet_config" in changes)
    return model.set_train(False)


@pytest.fixture
def r08(golden):
    return golden / "mindformers_r08"


# The tolerances are those of MindFormers itself (README.md of the goldens): float32 is exact to rounding, float16
# differs by 0.035 from a float64 forward and by 0.024 between MindFormers' own two modes, of logits of size 2.7.
@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("kind, atol, rel", [(32, 1e-4, 1e-5), (16, 0.05, 2e-3)])
def test_logits_and_losses(r08, kind, atol, rel):
    model, expected = network(r08, kind), np.load(r08 / f"model_fp{kind}/expected.npz")
    input_ids = Tensor(expected["input_ids"])
    logits = model(input_ids).asnumpy()
    np.testing.assert_allclose(logits[..., expected["vocab_idx"]], expected["logits_slices"], atol=atol, rtol=0)
    for row, whole in zip(expected["logits_last_rows"], expected["logits_last"], strict=True):
        np.testing.assert_allclose(logits[row, expected["valid_len"][row] - 1], whole, atol=atol, rtol=0)
    np.testing.assert_allclose(np.sort(logits)[..., :-6:-1], expected["top5_values"], atol=atol, rtol=0)
    for labels, loss in (("labels", "loss"), ("labels_all", "loss_all"), ("labels_none", "loss_none")):
        assert float(model(input_ids, Tensor(expected[labels]))) == pytest.approx(float(expected[loss][0]), rel=rel)


@pytest.mark.usefixtures("pynative")
def test_gradients(r08):
    model, expected = network(r08, 32), np.load(r08 / "model_fp32/gradients.npz")
    batch = np.load(r08 / "model_fp32/expected.npz")
    loss, gradients = loss_and_gradients(model, batch["input_ids"], batch["labels"])
    assert loss == pytest.approx(float(expected["loss"][0]), rel=1e-5)
    for name, gradient in gradients.items():
        table = f"grad_rows/{name}" in expected
        official = expected[f"grad_rows/{name}" if table else f"grad/{name}"]
        ours = gradient[expected["rows"]] if table else gradient
        assert np.linalg.norm(ours - official) < 1e-3 * np.linalg.norm(official), name
        assert np.linalg.norm(gradient) == pytest.approx(float(expected[f"norm/{name}"]), rel=1e-3)


# MindFormers computes the whole query_key_value layer in float16 once LoRA is attached, even with B = 0; this is not
# copied. In float32 we differ from it by what a float64 forward does (0.10); told to round as it does, by its own
# noise: its two modes differ by 0.072 (golden/mindformers_r08/README.md, "Tolerances found").
@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("rounded, atol", [(False, 0.11), (True, 0.073)])
def test_lora_on_float32(r08, rounded, atol):
    pet = {"lora_rank": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ".*query_key_value*"}
    model, expected = network(r08, 32, pet_config=pet), np.load(r08 / "lora/expected_lora_fp32.npz")
    if rounded:
        for _, cell in model.cells_and_names():
            if isinstance(cell, LoraLinear):
                cell.dtype = cell.delta_dtype = ms.float16
    input_ids = Tensor(expected["input_ids"])
    bare = model(input_ids).asnumpy()[..., expected["vocab_idx"]]
    np.testing.assert_allclose(bare, expected["logits_slices_b_zero"], atol=0.05, rtol=0)
    trained = ms.load_checkpoint(str(r08 / "lora/tiny_lora_fp32-trainable_params.ckpt"))
    set_weights(model, {name: value.asnumpy() for name, value in trained.items()}, partial=True)
    logits = model(input_ids).asnumpy()[..., expected["vocab_idx"]]
    both = [np.abs(logits - expected[key]).max() for key in ("logits_slices", "logits_slices_pynative")]
    assert min(both) < atol  # its two modes round in different places; so may ours
    assert float(model(input_ids, Tensor(expected["labels"]))) == pytest.approx(float(expected["loss"][0]), rel=1e-4)
